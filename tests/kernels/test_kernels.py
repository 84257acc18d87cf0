"""Every kernel: its reference against PyTorch, the promises of the operator, the interpreter, the machine code."""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from tersor.errors import UsageError
from tersor.kernels import (
    attention,
    gated_linear_attention,
    glu,
    int4_matmul,
    norm,
    rotary,
    scaled_matmul,
    token_match,
    token_merge,
)
from tersor.kernels.ahead_of_time import Variant
from tersor.kernels.catalogue import kernels
from tests.kernels import operands
from tests.kernels.interpreter import interpreted
from tests.kernels.operands import Draw

NAMES = sorted(kernels())
WHOLE, HALF = torch.float32, torch.float16
SAMPLES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "attention": ((WHOLE, 2, 4, 2, 5, 7, 6), {"bias": "mn", "lengths": True, "causal": True}),
    "norm": ((WHOLE, 3, 5), {"residual": True, "quantize": True}),
    "glu": ((WHOLE, 3, 5), {"halves": True}),
    "rotary": ((WHOLE, 2, 3, 5, 6, 2), {}),
    "scaled_matmul": ((torch.int8, 3, 8, 5), {"zero": True}),
    "int4_matmul": ((WHOLE, 3, 32, 5, 16), {"zero": True}),
    "gated_linear_attention": ((WHOLE, 1, 2, 3, 4, 5), {"state": True}),
    "token_match": ((WHOLE, 2, 5, 4, 3), {}),
    "token_merge": ((WHOLE, 2, 4, 3, 5), {}),
}
"""Small operands of each operator; that of sparse_24_matmul has tests of its own."""


def sample(name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    arguments, options = SAMPLES[name]
    given: tuple[tuple[Any, ...], dict[str, Any]] = getattr(operands, name)(*arguments, **options)
    return given


def operator(name: str) -> Any:
    return getattr(kernels()[name], name)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_operator_keeps_its_promises(name: str) -> None:
    results = torch.library.opcheck(operator(name), *sample(name))
    assert set(results.values()) == {"SUCCESS"}


def test_every_kernel_is_tested() -> None:
    assert {*SAMPLES, "sparse_24_matmul"} == set(NAMES)


@cache
def rows(*arguments: str) -> list[dict[str, Any]]:
    return interpreted("tests.kernels.cases", *arguments)


def agree(name: str, *arguments: str, least: int = 4) -> None:
    found = [row for row in rows(*arguments) if row["kernel"] == name]
    assert len(found) >= least
    assert [row for row in found if not row["excess"] <= 1] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_under_the_interpreter(name: str) -> None:
    agree(name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_under_the_interpreter_at_larger_sizes(name: str) -> None:
    agree(name, "--many", least=3)  # one in each of float32, float16 and bfloat16


def test_attention_is_that_of_pytorch() -> None:
    (q, k, v), _ = operands.attention(WHOLE, 2, 4, 2, 7, 7, 8)
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(attention.reference(q, k, v, causal=True), wanted)
    hidden = torch.rand(2, 1, 7, 7, generator=Draw().source) < 0.5
    bias = torch.zeros(2, 1, 7, 7).masked_fill(hidden, float("-inf"))
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden, scale=0.1, enable_gqa=True)
    torch.testing.assert_close(attention.reference(q, k, v, bias, scale=0.1), wanted)


def test_windows_lengths_and_block_masks_are_masks() -> None:
    (q, k, v), _ = operands.attention(WHOLE, 2, 2, 2, 40, 40, 8)
    place = torch.arange(40)
    near = (place[:, None] - place[None, :]).abs() < 5
    torch.testing.assert_close(
        attention.reference(q, k, v, window=5), F.scaled_dot_product_attention(q, k, v, attn_mask=near)
    )
    short = (place < 9)[None].expand(40, 40)
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=short)
    torch.testing.assert_close(attention.reference(q, k, v, lengths=torch.tensor([9, 9])), wanted)
    mask = torch.tensor([[[[1, 0, 1], [0, 1, 0], [1, 1, 1]]]], dtype=torch.bool)
    wide = mask.repeat_interleave(16, 2).repeat_interleave(16, 3)[..., :40, :40]
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=wide)
    torch.testing.assert_close(attention.reference(q, k, v, mask=mask, block=16), wanted)
    assert attention.pairs(40, 40, window=5) == int(near.sum())
    assert attention.pairs(7, 40, causal=True, window=5, offset=33) == int(
        (near & (place[:, None] >= place))[33:].sum()
    )


def test_norms_are_those_of_pytorch() -> None:
    (x,), given = operands.norm(WHOLE, 3, 5, 33, residual=True, bias=True)
    made, summed = norm.reference(x, eps=1e-6, **given)
    wanted = F.layer_norm(x + given["residual"], (33,), given["weight"], given["bias"], 1e-6)
    torch.testing.assert_close(made, wanted)
    assert torch.equal(summed, x + given["residual"])
    torch.testing.assert_close(norm.reference(x, eps=1e-6, rms=True)[0], F.rms_norm(x, (33,), eps=1e-6))
    level, scale = norm.reference(x, quantize=True)
    plain = norm.reference(x)[0]
    assert ((level * scale - plain).abs() <= 0.5001 * scale).all()


def test_glu_and_rotary_are_those_of_models() -> None:
    (gate, up), _ = operands.glu(WHOLE, 3, 8)
    torch.testing.assert_close(glu.reference(gate, up), F.silu(gate) * up)
    torch.testing.assert_close(glu.reference(gate, up, "gelu_tanh"), F.gelu(gate, approximate="tanh") * up)
    (x, cos, sin), _ = operands.rotary(WHOLE, 1, 2, 5, 8, 4)
    turned = torch.cat([-x[..., 4:], x[..., :4]], -1)  # as transformers writes it, with tables twice as wide
    wide = [torch.cat([item, item], -1)[:, None] for item in (cos, sin)]
    torch.testing.assert_close(rotary.reference(x, cos, sin), x * wide[0] + turned * wide[1])
    complex_ = torch.view_as_complex(x.unflatten(-1, (4, 2)).contiguous()) * torch.complex(cos, sin)[:, None]
    torch.testing.assert_close(rotary.reference(x, cos, sin, True), torch.view_as_real(complex_).flatten(-2))


def test_matrix_products_are_those_of_dequantized_weights() -> None:
    (x, weight, step, scale), given = operands.scaled_matmul(torch.int8, 5, 40, 7, zero=True, activation="relu")
    plain = (x - given["zero"][:, None]).float() * step[:, None]
    wanted = F.relu(F.linear(plain, weight * scale[:, None], given["bias"]))
    torch.testing.assert_close(scaled_matmul.reference(x, weight, step, scale, **given), wanted)
    (half, packed, scale), given = operands.int4_matmul(WHOLE, 3, 64, 5, 16, zero=True)
    level = int4_matmul.unpack(packed).float() - given["zero"].repeat_interleave(16, 1)
    wanted = F.linear(half, level * scale.repeat_interleave(16, 1))
    torch.testing.assert_close(int4_matmul.reference(half, packed, scale, **given), wanted)


def test_tokens_are_merged_as_in_the_paper() -> None:
    (a, b), _ = operands.token_match(WHOLE, 2, 9, 8, 5)
    scores = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).transpose(1, 2)
    best, which = token_match.reference(a, b)
    torch.testing.assert_close(best, scores.max(-1).values)
    assert torch.equal(which, scores.argmax(-1))
    (x, size, kept, merged, into), _ = operands.token_merge(WHOLE, 2, 4, 6, 5)
    made, total = token_merge.reference(x, size, kept, merged, into)
    assert torch.equal(total.sum(1), size.sum(1))
    for batch in range(2):
        for place in range(4):
            own = [kept[batch, place], *merged[batch][into[batch] == place]]
            mean = sum(x[batch, item] * size[batch, item] for item in own) / sum(size[batch, item] for item in own)
            torch.testing.assert_close(made[batch, place], mean)


def test_linear_attention_is_attention_with_decay() -> None:
    (q, k, v, gate), _ = operands.gated_linear_attention(WHOLE, 1, 2, 6, 4, 5, per_channel=False)
    total = gate.cumsum(-1)
    weight = (q @ k.transpose(-1, -2)) * (total[..., :, None] - total[..., None, :]).exp().tril() / 2
    torch.testing.assert_close(gated_linear_attention.reference(q, k, v, gate)[0], weight @ v)
    early, late = ([item[:, :, part] for item in (q, k, v, gate)] for part in (slice(0, 4), slice(4, 6)))
    first, memory = gated_linear_attention.reference(early[0], early[1], early[2], early[3])
    second, _ = gated_linear_attention.reference(late[0], late[1], late[2], late[3], memory)
    torch.testing.assert_close(torch.cat([first, second], 2), weight @ v)


Wrong = tuple[str, dict[str, Any], str]
WRONG: list[Wrong] = [
    ("attention", {"q": torch.ones(1, 2, 3, 320), "k": torch.ones(1, 2, 3, 320)}, "heads of 320"),
    ("attention", {"k": torch.ones(2, 3, 7, 6), "v": torch.ones(2, 3, 7, 6)}, "4 heads of queries and 3 of keys"),
    ("attention", {"v": torch.ones(2, 2, 7, 6, dtype=HALF)}, "v of torch.float16"),
    ("attention", {"bias": torch.ones(2, 1, 5, 6)}, "broadcasts to (2, 4, 5, 7)"),
    ("attention", {"mask": torch.ones(1, 1, 1, 1, dtype=torch.bool), "block": 24}, "block 24"),
    ("attention", {"mask": torch.ones(1, 1, 2, 1, dtype=torch.bool), "block": 16}, "mask of shape (1, 1, 2, 1)"),
    ("norm", {"weight": torch.ones(4)}, "weight of shape (4,)"),
    ("norm", {"x": torch.ones(3, 0), "residual": None}, "1 to 32768 channels"),
    ("glu", {"activation": "tanh"}, "one of none, relu"),
    ("glu", {"up": torch.ones(5)}, "up of shape (5,)"),
    ("rotary", {"cos": torch.ones(1, 5, 4), "sin": torch.ones(1, 5, 4)}, "4 pairs in heads of 6"),
    ("scaled_matmul", {"weight": torch.ones(5, 8, dtype=torch.float8_e5m2)}, "two int8 or fp8"),
    ("scaled_matmul", {"x_scale": torch.ones(2)}, "1 or 3 numbers"),
    ("scaled_matmul", {"sums": None}, "zero without sums"),
    ("int4_matmul", {"scale": torch.ones(5, 4)}, "groups of a multiple of 16"),
    ("int4_matmul", {"packed": torch.ones(5, 8, dtype=torch.uint8)}, "uint8 [out, in / 2]"),
    ("gated_linear_attention", {"gate": torch.ones(1, 2, 4)}, "gate of shape (1, 2, 4)"),
    ("gated_linear_attention", {"state": torch.ones(1, 2, 4, 5, dtype=HALF)}, "state of torch.float16"),
    ("token_match", {"b": torch.ones(2, 0, 3)}, "no tokens to match"),
    ("token_merge", {"into": torch.ones(2, 2, dtype=torch.int64)}, "into of shape (2, 2)"),
    ("token_merge", {"kept": torch.ones(2, 0, dtype=torch.int64)}, "none is kept"),
]


@pytest.mark.parametrize(("name", "change", "message"), WRONG)
def test_operands_that_do_not_fit(name: str, change: dict[str, Any], message: str) -> None:
    positional, options = sample(name)
    reference = kernels()[name].reference
    given = dict(zip(inspect.signature(reference).parameters, positional, strict=False)) | options | change
    with pytest.raises(UsageError) as caught:
        reference(**given)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_tracers_see_the_kernel(name: str) -> None:
    """What Inductor and AOTInductor compile: the operator dissolves into a launch, with no Python left."""
    pytest.importorskip("triton", reason="Triton is not installed: it has wheels for Linux only")
    if name == "sparse_24_matmul":
        positional: tuple[Any, ...] = (torch.ones(3, 16), torch.ones(5, 8), torch.ones(5, 2, dtype=torch.uint8))
        options: dict[str, Any] = {}
    else:
        positional, options = sample(name)
    with FakeTensorMode() as mode:

        def there(value: Any) -> Any:
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")

        fakes = [there(item) for item in positional]
        keywords = {key: there(item) if isinstance(item, Tensor) else item for key, item in options.items()}
        graph = make_fx(lambda *given: kernels()[name].launch(*given, **keywords))(*fakes).graph
    assert mode is not None
    assert [node for node in graph.nodes if "triton_kernel_wrapper" in str(node.target)]


def compiled(variant: Variant, capability: int) -> None:
    code = variant.compile(capability)
    told = f"{variant.name} {variant.text} on sm_{capability}"
    assert code.spills == 0 and code.stack == 0, told
    assert code.registers <= 255 and code.shared <= 160 * 1024, told
    assert code.cubin[:4] == b"\x7fELF" and code.entry == "kernel"


@pytest.mark.parametrize("name", ["glu", "token_merge", "norm"])
def test_compiled_ahead_of_time(name: str) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: it has wheels for Linux only")
    compiled(next(kernels()[name].variants(90)), 90)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", NAMES)
def test_no_variant_spills(name: str, capability: int) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: it has wheels for Linux only")
    for variant in kernels()[name].variants(capability):
        compiled(variant, capability)


@pytest.mark.parametrize("name", SAMPLES)
def test_bytes_are_those_of_the_operands(name: str) -> None:
    """`work` against the tensors of a call, with what it says it leaves out."""
    positional, options = sample(name)
    given = dict(zip(inspect.signature(kernels()[name].reference).parameters, positional, strict=False)) | options
    tensors = [item for item in given.values() if isinstance(item, Tensor)]
    made = kernels()[name].reference(**given)
    moved = sum(item.nbytes for item in [*tensors, *([made] if isinstance(made, Tensor) else made)])
    stated = {
        "attention": lambda: attention.work(2, 4, 2, 5, 7, 6, WHOLE, bias=35).bytes + 2 * 4,
        "norm": lambda: norm.work(3, 5, WHOLE, residual=True, quantize=True).bytes - 5 * 4,
        "glu": lambda: glu.work(3, 5, WHOLE).bytes,
        "rotary": lambda: rotary.work(2, 3, 5, 6, WHOLE).bytes - 5 * 2 * 4,
        "scaled_matmul": lambda: scaled_matmul.work(3, 8, 5, WHOLE).bytes + 3 * 4 + 2 * 5 * 4,
        "int4_matmul": lambda: int4_matmul.work(3, 32, 5, 16, WHOLE, zero=True).bytes,
        "gated_linear_attention": lambda: gated_linear_attention.work(1, 2, 3, 4, 5, WHOLE).bytes,
        "token_match": lambda: token_match.work(2, 5, 4, 3, WHOLE).bytes,
        "token_merge": lambda: token_merge.work(2, 4, 3, 5, WHOLE).bytes,
    }[name]()
    assert stated == moved


@pytest.mark.gpu
@pytest.mark.parametrize("name", SAMPLES)
def test_the_kernel_on_a_gpu(name: str) -> None:
    positional, options = sample(name)
    there = [item.cuda() for item in positional]
    keywords = {key: item.cuda() if isinstance(item, Tensor) else item for key, item in options.items()}
    module = importlib.import_module(f"tersor.kernels.{name}")
    made, wanted = operator(name)(*there, **keywords), module.reference(*positional, **options)
    for got, true in zip(*([item] if isinstance(item, Tensor) else item for item in (made, wanted)), strict=True):
        torch.testing.assert_close(got.cpu(), true, rtol=2e-3, atol=2e-3)
