"""`substitute-attention` and `reuse-attention`: chosen by error and predicted gain, equal through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.attention.choose import losses
from tersor.attention.settings import NAMES
from tersor.attention.site import describe
from tersor.capture.torch import capture_module
from tersor.context import Context
from tersor.errors import UsageError
from tersor.export import save_onnx
from tersor.passes.reuse_attention import ReuseAttention
from tersor.passes.substitute_attention import SubstituteAttention
from tersor.pipeline import Lossy, run
from tersor.program import Program
from tersor.quality import Data, Quality
from tersor.refresh import refresh
from tersor.rewrite_values import key
from tersor.spec import parse
from tests.passes.harness import operators, reasons

LENGTH, HEADS, WIDTH = 256, 4, 8


class Layer(nn.Module):
    """Attention whose first heads look near and whose last look at the first token, as trained heads do."""

    def __init__(self, causal: bool = False, shared: int = HEADS, local: int = 2, sharp: float = 1.0) -> None:
        super().__init__()
        self.causal, self.shared, self.local = causal, shared, local
        self.value = nn.Linear(32, WIDTH * shared)
        place = torch.arange(4096.0)[:, None]
        angle = place * 0.3 * 0.35 ** torch.arange(4)
        self.register_buffer("near", 12 * sharp * torch.cat([angle.cos(), angle.sin()], -1))
        self.register_buffer("first", torch.cat([torch.full((1, WIDTH), 6.0), torch.zeros(4095, WIDTH)]))

    def heads(self, length: int) -> tuple[Tensor, Tensor]:
        """Queries and keys [1, H, L, E] that depend on the place alone."""
        near, first = (self.get_buffer(name)[:length] for name in ("near", "first"))
        query = torch.stack([near] * self.local + [torch.full_like(first, 6.0)] * (HEADS - self.local))
        known = torch.stack([near] * self.local + [first] * (HEADS - self.local))
        return query[None], known[None, :: HEADS // self.shared]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, length = x.shape[:2]
        query, known = (item.expand(batch, -1, -1, -1) for item in self.heads(length))
        value = self.value(x).reshape(batch, length, self.shared, WIDTH).transpose(1, 2)
        noise = x.reshape(batch, length, HEADS, WIDTH).transpose(1, 2) * 0.01
        mixed = F.scaled_dot_product_attention(
            query + noise, known + noise[:, :: HEADS // self.shared], value, mask, is_causal=self.causal,
            enable_gqa=self.shared != HEADS,
        )  # fmt: skip
        return x + mixed.transpose(1, 2).reshape(batch, length, -1)


def program_of(model: nn.Module, *inputs: Tensor, dynamic: Any = None) -> Program:
    return refresh(capture_module(model.eval(), inputs, dynamic))


def substituted(program: Program, spec: str, calibration: int = 4, **context: Any) -> tuple[Program, Context]:
    torch.manual_seed(1)
    inputs = tuple(
        tuple(torch.randn_like(x) if x.is_floating_point() else x for x in program.inputs) for _ in range(calibration)
    )
    told = Context(calibration=inputs, backend="onnxruntime", **context)
    made = program.clone()
    for item in parse(spec):
        item(made, told)
    return refresh(made), told


def lost(model: nn.Module, program: Program, *inputs: Tensor) -> float:
    with torch.no_grad():
        return float(losses([model(*inputs)[:, None]], [program.run(inputs)[0][:, None]]))


def in_onnx_runtime(program: Program, path: Path, *inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(save_onnx(program, path))
    names = [item.name for item in session.get_inputs()]
    (found,) = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    return torch.from_numpy(np.asarray(found))


EVERY = [name for name in NAMES if name != "guided"]
NOT_CAUSAL = ("pooled", "landmarks", "sampled")
SOFTER = {"features": 0.3, "permute": 0.3}
"""Where heads that look near are less sharp: few random features cannot tell sharp ones, and where all that is far
weighs nothing, blocks of it are as good as equal and two runtimes choose differently."""


QUICK = (("sinks", False), ("select", True), ("pooled", True))
CASES = [
    pytest.param(name, causal, marks=[] if (name, causal) in QUICK else [pytest.mark.slow])
    for name in EVERY
    for causal in (False, True)
]


@pytest.mark.parametrize(("name", "causal"), CASES)
def test_each_method_runs_at_any_batch_and_in_onnx_runtime(name: str, causal: bool, tmp_path: Path) -> None:
    model, x = Layer(causal, shared=2, sharp=SOFTER.get(name, 1.0)), torch.randn(2, LENGTH, 32)
    program = program_of(model, x, dynamic=({0: torch.export.Dim("batch")},))
    made, told = substituted(program, f"substitute-attention{{methods={name};error=1;anyway=true;correct=false}}", 2)
    if causal and name in NOT_CAUSAL:
        assert "later" in reasons(told) and not told.taken
        return
    assert len(told.taken) == 1, reasons(told)
    assert name in told.taken[0].detail or name in ("sinks", "dilated", "proxies")
    y = torch.randn(3, LENGTH, 32)
    torch.testing.assert_close(in_onnx_runtime(made, tmp_path / "a.onnx", y), made.run((y,))[0], rtol=1e-4, atol=1e-4)


def test_heads_are_given_what_suits_them() -> None:
    model, x = Layer(), torch.randn(1, 1024, 32)
    made, told = substituted(program_of(model, x), "substitute-attention{methods=window+sampled;error=0.01}")
    (site,) = told.taken
    assert "} in heads 0, 1; sampled" in site.detail, site.detail
    assert lost(model, made, x) < 0.01
    sizes = [node.meta["val"].shape for node in made.nodes if key(node) == "scaled_dot_product_attention"]
    assert all(shape[2] < 1024 or shape[1] < HEADS for shape in sizes)


def test_the_limit_holds_for_each_head() -> None:
    model, x = Layer(), torch.randn(1, 1024, 32)
    program = program_of(model, x)
    _, told = substituted(program, "substitute-attention{methods=dilated;error=0.001;correct=false}")
    assert not told.taken
    assert "of each head's energy, more than 0.001" in reasons(told)


def test_short_sequences_do_not_pay() -> None:
    x = torch.randn(1, 48, 32)
    made, told = substituted(program_of(Layer(), x), "substitute-attention{error=1}")
    assert not told.taken
    assert "nothing pays" in reasons(told)
    assert operators(made)["scaled_dot_product_attention"] == 1


def test_a_second_application_finds_nothing() -> None:
    program = program_of(Layer(), torch.randn(1, 1024, 32))
    made, told = substituted(program, "substitute-attention{methods=window+sinks;error=0.05}")
    assert told.taken
    _, again = substituted(made, "substitute-attention{methods=window+sinks;error=0.05}")
    assert not again.taken


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (torch.randn(1, 1, LENGTH, LENGTH), "it would break a mask that differs from row to row"),
        (torch.zeros(1, 1, 1, LENGTH), ""),
    ],
)
def test_masks_that_a_method_would_break(mask: Tensor, reason: str) -> None:
    program = program_of(Layer(), torch.randn(1, LENGTH, 32), mask)
    _, told = substituted(program, "substitute-attention{methods=select;error=1;anyway=true}")
    assert bool(told.taken) is not bool(reason)
    assert reason in reasons(told)


def test_a_window_keeps_a_mask_of_rows() -> None:
    x, mask = torch.randn(1, LENGTH, 32), torch.randn(1, 1, LENGTH, LENGTH)
    model = Layer(local=4)
    made, told = substituted(program_of(model, x, mask), "substitute-attention{methods=window;error=0.2;anyway=true}")
    assert told.taken, reasons(told)
    assert lost(model, made, x, mask) < 0.2


def test_a_length_that_differs_from_call_to_call() -> None:
    model, x = Layer(local=4), torch.randn(1, LENGTH, 32)
    length = torch.export.Dim("length", min=8, max=4000)
    program = program_of(model, x, dynamic=({1: length},))
    _, told = substituted(program, "substitute-attention{methods=select;error=1;anyway=true}")
    assert "its number of tokens differs from call to call" in reasons(told)
    made, told = substituted(program, "substitute-attention{methods=window;error=0.1;anyway=true}")
    assert told.taken, reasons(told)
    for size in (9, 64, 333):
        assert lost(model, made, torch.randn(1, size, 32)) < 0.1


def test_guided_batches() -> None:
    model, x = Layer(), torch.randn(1, LENGTH, 32).repeat(2, 1, 1)
    made, told = substituted(program_of(model, x), "substitute-attention{methods=guided;error=1}", 0)
    assert told.taken, reasons(told)
    assert lost(model, made, x) < 1e-6
    odd = program_of(model, torch.randn(3, LENGTH, 32))
    assert "not known to be even" in reasons(substituted(odd, "substitute-attention{methods=guided;error=1}", 0)[1])


def test_half_precision() -> None:
    model, x = Layer().half(), torch.randn(1, LENGTH, 32).half()
    made, told = substituted(program_of(model, x), "substitute-attention{methods=window+features;error=1;anyway=true}")
    assert told.taken, reasons(told)
    assert made.run((x,))[0].dtype == torch.float16


def test_the_budget_decides_how_many() -> None:
    """Without a budget the pass leaves out what it can, and the pipeline drops the rest."""
    model, x = nn.Sequential(Layer(), Layer()), torch.randn(1, 1024, 32)
    program = program_of(model, x)
    data = Data.split((x,), tuple((torch.randn_like(x),) for _ in range(4)))
    spec = "substitute-attention{methods=pooled;error=1}"
    kept: list[int] = []
    for budget in (1.0, 0.0):
        lossy = Lossy(Quality.of(program, None, budget, data), data, backend="onnxruntime")
        outcome = run(program, parse(spec), lossy=lossy)
        kept.append(len(outcome.steps[0].sites))
        assert outcome.steps[0].status == ("kept" if budget else "dropped")
    assert kept == [2, 1]


def test_unknown_methods_and_limits() -> None:
    with pytest.raises((ValueError, UsageError), match="wanted some of window"):
        SubstituteAttention(methods="flash")
    with pytest.raises(ValueError, match="error is 2"):
        SubstituteAttention(error=2)
    with pytest.raises(ValueError, match="gain"):
        SubstituteAttention(gain=0.5)


def test_what_is_no_attention_of_four_axes() -> None:
    class Three(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    program = program_of(Three(), torch.randn(2, 64, 8))
    (node,) = [node for node in program.nodes if key(node) == "scaled_dot_product_attention"]
    assert describe(node) == "its query has 3 axes, wanted 4: batch, heads, tokens, width"


def test_choices_for_the_planner() -> None:
    program = program_of(Layer(), torch.randn(1, 64, 32))
    found = SubstituteAttention.choices(program, Context().target)
    assert [item.error for item in found] == sorted(item.error for item in found)
    assert ReuseAttention.choices(program, Context().target) == ()
    assert SubstituteAttention.choices(program_of(nn.Linear(4, 4), torch.randn(2, 4)), Context().target) == ()


class Spelled(nn.Module):
    """Attention in PyTorch's own operators, and a softmax that is none."""

    def forward(self, x: Tensor) -> Tensor:
        query = x.reshape(*x.shape[:2], HEADS, WIDTH).transpose(1, 2)
        mixed = (query @ query.mT * 8).softmax(-1) @ query
        return mixed.transpose(1, 2).reshape(x.shape).softmax(-1)


def test_attention_that_is_spelled_out_is_found_first() -> None:
    program = program_of(Spelled(), torch.randn(1, 64, 32))
    assert SubstituteAttention.choices(program, Context().target)
    made, told = substituted(program, "canonicalize,substitute-attention{methods=window;error=1;anyway=true}")
    assert "window" in told.taken[-1].detail and operators(made)["softmax"] == 1


def test_a_softmax_that_is_no_attention_is_told() -> None:
    program = program_of(nn.Sequential(nn.Linear(32, 8), nn.Softmax(-1)), torch.randn(2, 32))
    for spec in ("substitute-attention", "reuse-attention", "merge-tokens", "freeze-tokens"):
        _, told = substituted(program, spec)
        assert "no attention: " in reasons(told), spec


class Twice(nn.Module):
    """Two layers with projections of their own, whose maps are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(32, 32), nn.Linear(32, 32)
        self.values = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.other = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        total = x
        for place, value in enumerate(self.values):
            near = self.other if place == 2 else self.key
            query, known, held = (
                item(x).reshape(*x.shape[:2], 4, 8).transpose(1, 2) for item in (self.query, near, value)
            )
            mixed = F.scaled_dot_product_attention(query, known, held, is_causal=True)
            total = total + mixed.transpose(1, 2).reshape(x.shape)
        return total


def test_equal_maps_are_computed_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Twice(), torch.randn(2, 64, 32)
    program = program_of(model, x, dynamic=({0: torch.export.Dim("batch")},))
    made, told = substituted(program, "reuse-attention")
    assert len(told.taken) == 1
    assert "would lose" in reasons(told)
    assert operators(made)["scaled_dot_product_attention"] == 1
    assert operators(made)["softmax"] == 1
    y = torch.randn(3, 64, 32)
    torch.testing.assert_close(made.run((y,))[0], model(y), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(in_onnx_runtime(made, tmp_path / "a.onnx", y), model(y), rtol=1e-4, atol=1e-5)


def test_maps_that_nobody_may_take() -> None:
    class Different(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            first = F.scaled_dot_product_attention(x, x, x)
            return F.scaled_dot_product_attention(first, x, x, is_causal=True)

    program = program_of(Different(), torch.randn(1, 2, 16, 8))
    _, told = substituted(program, "reuse-attention")
    assert not told.taken and "no earlier attention" in reasons(told)
