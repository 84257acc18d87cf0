"""What `benchmarks/gpu.py` runs: every kernel at sizes of real layers, beside the best of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

HALF = torch.bfloat16
Call = Callable[[], Any]
Make = Callable[[], Call]
"""Builds operands and returns what runs them, so that a contestant that cannot be built costs nobody else."""


@dataclass
class Case:
    """One comparison.

    Attributes:
        kernel: of ours.
        text: sizes and formats.
        work: operations and bytes that ours has to do.
        rate: the dtype that it computes in, as data sheets name it.
        ours: builds our call.
        checked: builds the same call by the reference, for its error; None where that takes too long.
        rivals: build what is to be beaten, by name.
    """

    kernel: str
    text: str
    work: Any
    rate: str
    ours: Make
    rivals: dict[str, Make]
    checked: Make | None = field(default=None)


@dataclass(frozen=True)
class Bench:
    """Where cases run.

    Attributes:
        device: "cuda", or "cpu" to see that everything runs.
        small: sizes of a few tokens.
    """

    device: str
    small: bool

    def randn(self, *shape: int, dtype: torch.dtype = HALF) -> Tensor:
        return torch.randn(shape, device=self.device).to(dtype)

    def size(self, wanted: int, small: int) -> int:
        return small if self.small else wanted

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function if self.device == "cpu" else torch.compile(function, dynamic=False)


def cases(bench: Bench) -> Iterator[Case]:
    """All of them, kernel by kernel."""
    for maker in (attentions, windows, norms, products, rotations, eight_bits, four_bits, sparse, linear, tokens):
        yield from maker(bench)


def sdpa(backend: SDPBackend, *given: Tensor, **options: Any) -> Call:
    def call() -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(*given, **options)

    return call


BACKENDS = {
    "FlashAttention": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def attentions(bench: Bench) -> Iterator[Case]:
    from tersor.kernels import attention

    length = bench.size(4096, 37)
    for batch, heads, groups, tokens, size, causal, biased in (
        (4, 32, 8, length, 128, True, False), (8, 16, 16, length // 4, 64, False, False),
        (64, 12, 12, bench.size(197, 37), 64, False, False), (8, 16, 16, length // 4, 64, False, True),
        (1, 32, 8, 2 * length, 128, True, False), (4, 8, 8, length, 256, True, False),
    ):  # fmt: skip
        if bench.small:
            batch, heads, groups = 2, 4, 2 if groups < heads else 4
        q, k, v = (bench.randn(batch, n, tokens, size) for n in (heads, groups, groups))
        bias = bench.randn(1, heads, tokens, tokens) if biased else None
        seen = attention.pairs(tokens, tokens, causal) / tokens**2
        work = attention.work(batch, heads, groups, tokens, tokens, size, HALF, seen, heads * tokens**2 * biased)
        options = {"attn_mask": bias, "is_causal": causal, "enable_gqa": groups != heads}
        rivals = {name: partial(sdpa, which, q, k, v, **options) for name, which in BACKENDS.items()}
        text = f"{batch} x {heads}/{groups} heads of {size}, {tokens} tokens" + ", causal" * causal + ", bias" * biased
        run = partial(attention.attention, q, k, v, bias, causal=causal)
        check = partial(attention.reference, q, k, v, bias, causal=causal)
        yield Case("attention", text, work, "bfloat16", lambda r=run: r, rivals, lambda c=check: c)


def windows(bench: Bench) -> Iterator[Case]:
    """A sliding window and a block mask, beside FlexAttention and a dense mask."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    from tersor.kernels import attention

    batch, heads, tokens, window = 1, bench.size(16, 2), bench.size(8192, 128), bench.size(512, 16)
    q, k, v = (bench.randn(batch, heads, tokens, 64) for _ in range(3))
    seen = attention.pairs(tokens, tokens, True, window) / tokens**2
    work = attention.work(batch, heads, heads, tokens, tokens, 64, HALF, seen)

    def flex() -> Call:
        def near(b: Any, h: Any, i: Any, j: Any) -> Any:
            return (j <= i) & (j > i - window)

        mask = create_block_mask(near, None, None, tokens, tokens, device=bench.device)
        return partial(bench.compiled(flex_attention), q, k, v, block_mask=mask)

    run = partial(attention.attention, q, k, v, causal=True, window=window)
    rivals = {"FlexAttention": flex, "FlashAttention, whole": partial(sdpa, BACKENDS["FlashAttention"], q, k, v)}
    yield Case("attention", f"{tokens} tokens, window {window}", work, "bfloat16", lambda: run, rivals)

    count = -(-tokens // 64)
    mask = torch.rand(1, heads, count, count, device=bench.device) < 0.2
    work = attention.work(batch, heads, heads, tokens, tokens, 64, HALF, float(mask.float().mean()))
    listed = partial(attention.attention, q, k, v, mask=mask, block=64)
    rivals = {name: partial(sdpa, which, q, k, v) for name, which in BACKENDS.items()}
    yield Case("attention", f"{tokens} tokens, a fifth of the blocks", work, "bfloat16", lambda: listed, rivals)


def norms(bench: Bench) -> Iterator[Case]:
    from tersor.kernels import norm

    rows = bench.size(8192, 5)
    for channels, rms, quantize in ((768, False, False), (4096, True, False), (4096, True, True), (8192, True, False)):
        channels = bench.size(channels, 33)
        x, residual, weight = bench.randn(rows, channels), bench.randn(rows, channels), bench.randn(channels)
        bias = None if rms else bench.randn(channels)

        def plain(
            x: Tensor, residual: Tensor, r: bool = rms, z: bool = quantize, w: Any = weight, b: Any = bias
        ) -> Any:
            summed = x + residual
            made = F.rms_norm(summed, w.shape, w, 1e-5) if r else F.layer_norm(summed, w.shape, w, b, 1e-5)
            return (*norm.rounded(made.float()), summed) if z else (made, summed)

        text = f"{'RMS' if rms else 'layer'}, {rows} x {channels}, residual" + ", quantized" * quantize
        work = norm.work(rows, channels, HALF, True, quantize)
        given = (x, residual, weight, bias, 1e-5, rms, quantize)
        rivals = {"Inductor": lambda p=plain, x=x, r=residual: partial(bench.compiled(p), x, r)}
        run, check = partial(norm.norm, *given), partial(norm.reference, *given)
        yield Case("norm", text, work, "float32", lambda r=run: r, rivals, lambda c=check: c)


def products(bench: Bench) -> Iterator[Case]:
    from tersor.kernels import glu

    rows = bench.size(4096, 5)
    for channels, name in ((14336, "silu"), (3072, "gelu")):
        channels = bench.size(channels, 40)
        first, second = bench.randn(rows, 2 * channels).chunk(2, -1)

        def plain(a: Tensor, b: Tensor, n: str = name) -> Tensor:
            return (F.silu(a) if n == "silu" else F.gelu(a)) * b

        rivals = {"Inductor": lambda p=plain, a=first, b=second: partial(bench.compiled(p), a, b)}
        run, check = (partial(f, first, second, name) for f in (glu.glu, glu.reference))
        text, work = f"{name}, {rows} x {channels}", glu.work(rows, channels, HALF)
        yield Case("glu", text, work, "float32", lambda r=run: r, rivals, lambda c=check: c)


def rotations(bench: Bench) -> Iterator[Case]:
    from tersor.kernels import rotary

    batch, heads, count = bench.size(4, 2), bench.size(32, 2), bench.size(4096, 7)
    x = bench.randn(batch, count, heads, 128).transpose(1, 2)
    cos, sin = bench.randn(1, count, 64), bench.randn(1, count, 64)

    def plain(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        c, s = (torch.cat([item, item], -1)[:, None] for item in (cos, sin))
        return x * c + torch.cat([-x[..., 64:], x[..., :64]], -1) * s

    run, check = (partial(f, x, cos, sin) for f in (rotary.rotary, rotary.reference))
    rivals = {"Inductor": lambda: partial(bench.compiled(plain), x, cos, sin)}
    work = rotary.work(batch, heads, count, 128, HALF)
    yield Case("rotary", f"{batch} x {heads} x {count} x 128", work, "float32", lambda: run, rivals, lambda: check)


LAYERS = ((1, 4096, 14336), (16, 4096, 14336), (64, 14336, 4096), (4096, 4096, 14336))
"""Rows, inputs, outputs of layers of Llama-3-8B."""


def layers(bench: Bench) -> Iterator[tuple[int, int, int]]:
    yield from (((3, 256, 64), (20, 128, 96)) if bench.small else LAYERS)


def dense(bench: Bench, rows: int, inputs: int, outputs: int) -> Make:
    """cuBLAS in bfloat16."""
    return lambda: partial(F.linear, bench.randn(rows, inputs), bench.randn(outputs, inputs))


def eight_bits(bench: Bench) -> Iterator[Case]:
    from tersor.kernels import scaled_matmul

    for kind in (torch.int8, torch.float8_e4m3fn):
        for rows, inputs, outputs in layers(bench):
            x, weight = ((20 * bench.randn(n, inputs, dtype=torch.float32)).to(kind) for n in (rows, outputs))
            step, scale = torch.rand(rows, device=bench.device), torch.rand(outputs, device=bench.device)
            given, name = (x, weight, step, scale), "int8" if kind == torch.int8 else "float8"
            rivals = {"cuBLAS bfloat16": dense(bench, rows, inputs, outputs), "PyTorch": partial(_eight, bench, *given)}
            run, check = (partial(f, *given) for f in (scaled_matmul.scaled_matmul, scaled_matmul.reference))
            work = scaled_matmul.work(rows, inputs, outputs, HALF)
            text = f"{name}, {rows} x {inputs} to {outputs}"
            yield Case("scaled_matmul", text, work, name, lambda r=run: r, rivals, lambda c=check: c)


def _eight(bench: Bench, x: Tensor, weight: Tensor, step: Tensor, scale: Tensor) -> Call:
    """Its own product of integers with a compiled epilogue, or its product of fp8 with scales of rows."""
    if x.dtype == torch.int8:

        def plain(x: Tensor, step: Tensor, scale: Tensor) -> Tensor:
            return (torch._int_mm(x, weight.T).float() * step[:, None] * scale).bfloat16()

        return partial(bench.compiled(plain), x, step, scale)
    options = {"scale_a": step[:, None], "scale_b": scale[None, :], "out_dtype": HALF, "use_fast_accum": False}
    return partial(torch._scaled_mm, x, weight.T, **options)


def four_bits(bench: Bench) -> Iterator[Case]:
    from tersor.kernels import int4_matmul

    for rows, inputs, outputs in layers(bench):
        x, packed = bench.randn(rows, inputs), torch.randint(256, (outputs, inputs // 2), device=bench.device)
        given = (x, packed.to(torch.uint8), bench.randn(outputs, inputs // 128))

        def plain(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
            level = int4_matmul.unpack(packed).to(HALF).unflatten(1, (scale.shape[1], -1)) - 8
            return F.linear(x, (level * scale[..., None]).flatten(1))

        rivals = {
            "cuBLAS bfloat16": dense(bench, rows, inputs, outputs),
            "Inductor": lambda p=plain, g=given: partial(bench.compiled(p), *g),
        }
        run, check = (partial(f, *given) for f in (int4_matmul.int4_matmul, int4_matmul.reference))
        work = int4_matmul.work(rows, inputs, outputs, 128, HALF)
        text = f"{rows} x {inputs} to {outputs}, groups of 128"
        yield Case("int4_matmul", text, work, "bfloat16", lambda r=run: r, rivals, lambda c=check: c)


def sparse(bench: Bench) -> Iterator[Case]:
    from tersor.kernels import sparse_24_matmul
    from tersor.sparse.pack import Packed, unpack

    codes = torch.tensor([4, 8, 12, 9, 13, 14], device=bench.device, dtype=torch.uint8)
    for rows, inputs, outputs in layers(bench):
        if rows > 64:
            continue
        x, values = bench.randn(rows, inputs), bench.randn(outputs, inputs // 2)
        places = codes[torch.randint(6, (outputs, inputs // 8, 2), device=bench.device)]
        metadata = places[..., 0] + 16 * places[..., 1]
        levels, scale = (values * 40).clamp(-127, 127).to(torch.int8), torch.ones(outputs, device=bench.device)

        def semi_structured(x: Tensor = x, v: Tensor = values, m: Tensor = metadata) -> Call:
            return partial(F.linear, x, torch.sparse.to_sparse_semi_structured(unpack(Packed(v, m))))

        rivals = {"cuBLAS bfloat16": dense(bench, rows, inputs, outputs), "semi-structured": semi_structured}
        for name, given in (("bfloat16", (x, values, metadata)), ("int8", (x, levels, metadata, scale))):
            work = sparse_24_matmul.work(rows, inputs, outputs, HALF, given[1].dtype, bias=False)
            run, check = (partial(f, *given) for f in (sparse_24_matmul.sparse_24_matmul, sparse_24_matmul.reference))
            text = f"{name}, {rows} x {inputs} to {outputs}"
            yield Case("sparse_24_matmul", text, work, "bfloat16", lambda r=run: r, rivals, lambda c=check: c)


def linear(bench: Bench) -> Iterator[Case]:
    """Beside causal attention of the same size, and the chunked formula in PyTorch."""
    from tersor.kernels import gated_linear_attention as module

    batch, heads, count = bench.size(8, 1), bench.size(16, 2), bench.size(4096, 128)
    for size, per_channel in ((64, True), (128, True), (64, False), (128, False)):
        q, k, v = (bench.randn(batch, heads, count, size) for _ in range(3))
        shape = (batch, heads, count, size) if per_channel else (batch, heads, count)
        gate = -torch.rand(shape, device=bench.device) / 16
        rivals: dict[str, Make] = {"FlashAttention": partial(sdpa, SDPBackend.FLASH_ATTENTION, q, k, v, is_causal=True)}
        if not per_channel:
            rivals["Inductor"] = lambda q=q, k=k, v=v, g=gate: partial(bench.compiled(chunked), q, k, v, g)
        run = partial(module.gated_linear_attention, q, k, v, gate)
        work = module.work(batch, heads, count, size, size, HALF, per_channel)
        text = f"{batch} x {heads} x {count}, heads of {size}, gates of {'channels' if per_channel else 'heads'}"
        yield Case("gated_linear_attention", text, work, "tf32", lambda r=run: r, rivals)


def chunked(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, size: int = 64) -> Tensor:
    """Linear attention with one gate for each head, chunk by chunk."""
    q, k, v, gate = (item.float().unflatten(2, (-1, size)) for item in (q, k, v, gate))
    total = gate.cumsum(-1)
    inside = (q @ k.transpose(-1, -2)) * (total[..., :, None] - total[..., None, :]).exp().tril()
    made, added = inside @ v, (k * (total[..., -1:] - total).exp()[..., None]).transpose(-1, -2) @ v
    memory, before = torch.zeros_like(added[:, :, 0]), []
    for chunk in range(q.shape[2]):
        before.append(memory)
        memory = memory * total[:, :, chunk, -1].exp()[..., None, None] + added[:, :, chunk]
    made = made + (q * total.exp()[..., None]) @ torch.stack(before, 2)
    return (made * q.shape[-1] ** -0.5).flatten(2, 3).to(HALF)


def tokens(bench: Bench) -> Iterator[Case]:
    """Matching and merging of a ViT and of a diffusion model."""
    from tersor.kernels import token_match, token_merge

    for batch, count, gone, channels in ((64, 197, 16, 768), (4, 4096, 1024, 320)):
        if bench.small:
            batch, count, gone, channels = 2, 20, 4, 24
        keys = bench.randn(batch, count, 64)
        first, second = keys[:, ::2], keys[:, 1::2]

        def match(a: Tensor, b: Tensor) -> Any:
            a, b = (F.normalize(item, dim=-1) for item in (a, b))
            return (a @ b.transpose(1, 2)).max(-1)

        run, check = (partial(f, first, second) for f in (token_match.token_match, token_match.reference))
        work = token_match.work(batch, first.shape[1], second.shape[1], 64, HALF)
        rivals = {"Inductor": lambda a=first, b=second: partial(bench.compiled(match), a, b)}
        text = f"{batch} x {count} tokens"
        yield Case("token_match", text, work, "bfloat16", lambda r=run: r, rivals, lambda c=check: c)

        x, size = bench.randn(batch, count, channels), torch.ones(batch, count, device=bench.device)
        order = torch.rand(batch, count, device=bench.device).argsort(-1)
        into = torch.randint(count - gone, (batch, gone), device=bench.device)
        given = (x, size, order[:, gone:].contiguous(), order[:, :gone].contiguous(), into)
        run, check = (partial(f, *given) for f in (token_merge.token_merge, token_merge.reference))
        work = token_merge.work(batch, count - gone, gone, channels, HALF)
        rivals = {"Inductor": lambda g=given: partial(bench.compiled(token_merge.reference), *g)}
        text = f"{batch} x {count} to {count - gone} tokens of {channels}"
        yield Case("token_merge", text, work, "float32", lambda r=run: r, rivals, lambda c=check: c)
