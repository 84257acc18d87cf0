"""`tersor::norm`: layer norm or RMS norm, with the residual added before and the result quantized behind, in one pass.

Ba et al. (arXiv:1607.06450), Zhang and Sennrich (arXiv:1910.07467). Each row is read once and stays in registers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tersor.cost.roofline import Work
from tersor.errors import UsageError
from tersor.kernels.ahead_of_time import Operand, Variant
from tersor.kernels.autotune import best
from tersor.kernels.language import (
    blocks,
    capability,
    check_floats,
    check_shape,
    empty,
    jit,
    on_gpu,
    power,
    run,
    static,
    tl,
    wrap_triton,
)
from tersor.kernels.tile import Table, Tile, chosen, tile

NAME = "tersor::norm"
WIDEST = 32768
"""Channels up to which a row fits in the registers of a block of threads."""
SMALLEST = 1e-10
"""Least scale of a quantized row, that of a row of zeros."""

TILES: Table = {
    at: [
        (128, tile(4, 1, BLOCK_ROWS=16)),
        (256, tile(4, 1, BLOCK_ROWS=8)),
        (512, tile(4, 1, BLOCK_ROWS=4)),
        (2048, tile(4, 1, BLOCK_ROWS=1)),
        (8192, tile(8, 1, BLOCK_ROWS=1)),
        (16384, tile(16, 1, BLOCK_ROWS=1)),
        (WIDEST, tile(32, 1, BLOCK_ROWS=1)),
    ]
    for at in (80, 90)
}
"""By channels: about sixteen numbers for each thread of small rows, at most 32 of large ones."""


def reference(
    x: Tensor, residual: Tensor | None = None, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, rms: bool = False, quantize: bool = False,
) -> list[Tensor]:  # fmt: skip
    """The norm of ``x + residual`` over the last axis, in float32.

    Args:
        x: ``[..., channels]``, float32, float16 or bfloat16.
        residual: of the same shape; the sum is rounded to the dtype of x before it is normed, and returned.
        weight, bias: ``[channels]``, factor and shift of the result.
        eps: added to the variance, or to the mean of squares.
        rms: divide by the root of the mean of squares, and subtract no mean.
        quantize: round each row to int8 by its largest magnitude.

    Returns:
        The norm in the dtype of x; or int8 levels ``[..., channels]`` and float32 scales ``[..., 1]``. Behind them the
        sum, where there is a residual.

    Raises:
        UsageError: shapes or dtypes do not belong together.

    >>> [item.tolist() for item in reference(torch.tensor([[3.0, 4.0]]), rms=True, quantize=True)][0]
    [[95, 127]]
    """
    check(x, residual, weight, bias)
    summed = x if residual is None else x + residual
    value = summed.float()
    if not rms:
        value = value - value.mean(-1, keepdim=True)
    value = value * torch.rsqrt(value.square().mean(-1, keepdim=True) + eps)
    value = value if weight is None else value * weight.float()
    value = value if bias is None else value + bias.float()
    made = rounded(value) if quantize else [value.to(x.dtype)]
    return made if residual is None else [*made, summed]


def rounded(value: Tensor) -> list[Tensor]:
    """Levels and scales of rows, rounded to the nearest and ties to even."""
    scale = (value.abs().amax(-1, keepdim=True) / 127).clamp_min(SMALLEST)
    return [(value / scale).round().to(torch.int8), scale]


def check(x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None) -> None:
    """Raise UsageError unless the operands of `reference` belong together."""
    check_floats(x=x, residual=residual)
    if x.dim() < 1 or not 1 <= x.shape[-1] <= WIDEST:
        raise UsageError(f"x of shape {tuple(x.shape)}", f"[..., channels] with 1 to {WIDEST} channels")
    check_shape("residual", residual, x.shape)
    check_shape("weight", weight, x.shape[-1:])
    check_shape("bias", bias, x.shape[-1:])


def work(rows: int, channels: int, dtype: torch.dtype, residual: bool = False, quantize: bool = False) -> Work:
    """Operations, eight for each number, and bytes of one call.

    >>> round(work(4096, 4096, torch.bfloat16).bytes / 2**20, 2)
    64.02
    """
    each = dtype.itemsize * (3 if residual else 1) + (1 if quantize else dtype.itemsize)
    return Work(8.0 * rows * channels, rows * channels * each + 2 * channels * dtype.itemsize + 4 * rows * quantize)


@jit
def kernel(  # type: ignore[no-untyped-def]
    x, residual, weight, bias, made, scales, summed, rows, channels, eps,
    RESIDUAL: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, RMS: tl.constexpr, QUANTIZE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """A block of rows; all operands contiguous."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK_CHANNELS)
    inside = (row[:, None] < rows) & (column[None, :] < channels)
    at = row[:, None].to(tl.int64) * channels + column[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if RESIDUAL:
        value += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        short = value.to(summed.dtype.element_ty)
        tl.store(summed + at, short, mask=inside)
        value = short.to(tl.float32)
    if not RMS:
        mean = tl.sum(value, 1) / channels
        value = tl.where(inside, value - mean[:, None], 0.0)
    value *= tl.rsqrt(tl.sum(value * value, 1) / channels + eps)[:, None]
    if WEIGHT:
        value *= tl.load(weight + column, mask=column < channels, other=0.0).to(tl.float32)[None, :]
    if BIAS:
        value += tl.load(bias + column, mask=column < channels, other=0.0).to(tl.float32)[None, :]
    if QUANTIZE:
        scale = tl.maximum(tl.max(tl.abs(value), 1) / 127.0, 1e-10)
        tl.store(scales + row, scale, mask=row < rows)
        # Adding and taking away 1.5 * 2 ** 23 rounds to whole numbers, ties to even.
        value = (value / scale[:, None] + 12582912.0) - 12582912.0
    tl.store(made + at, value.to(made.dtype.element_ty), mask=inside)


def launch(
    x: Tensor, residual: Tensor | None = None, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, rms: bool = False, quantize: bool = False, cut: Tile | None = None,
) -> list[Tensor]:  # fmt: skip
    """`reference` by the Triton kernel, on a GPU or under Triton's interpreter."""
    check(x, residual, weight, bias)
    made = results(x, residual, quantize)
    if empty(x):
        return made
    channels = x.shape[-1]
    rows, at = x.numel() // channels, capability(x)
    scales, summed = made[1] if quantize else None, None if residual is None else made[-1]
    given = (item if item is None else item.contiguous() for item in (x, residual, weight, bias))
    operands = (*given, made[0], scales, summed, rows, channels, eps)
    constants = {
        "RESIDUAL": residual is not None, "WEIGHT": weight is not None, "BIAS": bias is not None, "RMS": rms,
        "QUANTIZE": quantize, "BLOCK_CHANNELS": power(channels, 16),
    }  # fmt: skip

    def go(cut: Tile) -> None:
        run(wrap_triton(kernel), (blocks(rows, cut.blocks["BLOCK_ROWS"]),), cut, *operands, **constants)

    key = (NAME, at, x.dtype, static(rows), channels, residual is None, rms, quantize)
    go(cut or best(key, chosen(TILES, at, channels), _candidates(at, channels), go))
    return made


def _candidates(at: int, channels: int) -> list[Tile]:
    """Tiles whose numbers fit in registers."""
    found = [item for _, item in TILES[at]]
    return [item for item in found if item.blocks["BLOCK_ROWS"] * power(channels) <= 32 * 32 * item.warps]


def results(x: Tensor, residual: Tensor | None, quantize: bool) -> list[Tensor]:
    """Memory of what `reference` returns."""
    made = [torch.empty_like(x, dtype=torch.int8 if quantize else x.dtype, memory_format=torch.contiguous_format)]
    if quantize:
        made.append(x.new_empty(*x.shape[:-1], 1, dtype=torch.float32))
    if residual is not None:
        made.append(torch.empty_like(x, memory_format=torch.contiguous_format))
    return made


@torch.library.triton_op(NAME, mutates_args=())
def norm(
    x: Tensor, residual: Tensor | None = None, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, rms: bool = False, quantize: bool = False,
) -> list[Tensor]:  # fmt: skip
    """`reference`, by the Triton kernel on a GPU."""
    if on_gpu(x):
        return launch(x, residual, weight, bias, eps, rms, quantize)
    return [item.contiguous() for item in reference(x, residual, weight, bias, eps, rms, quantize)]


@norm.register_fake
def _fake(
    x: Tensor, residual: Tensor | None = None, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, rms: bool = False, quantize: bool = False,
) -> list[Tensor]:  # fmt: skip
    check(x, residual, weight, bias)
    return results(x, residual, quantize)


def variants(at: int) -> Iterator[Variant]:
    """What it is compiled for ahead of time."""
    half = torch.bfloat16
    yield variant(at, half, 768, residual=True)
    yield variant(at, half, 4096, residual=True, rms=True)
    yield variant(at, half, 4096, residual=True, rms=True, quantize=True)
    yield variant(at, torch.float16, 128)
    yield variant(at, torch.float32, 8192)
    yield variant(at, torch.float32, WIDEST, residual=True)


def variant(
    at: int, dtype: torch.dtype, channels: int, residual: bool = False, rms: bool = False, quantize: bool = False
) -> Variant:
    """One format."""
    parts = ["RMS" if rms else "layer", f"{channels} channels", str(dtype).removeprefix("torch.")]
    parts += ["residual"] * residual + ["quantized"] * quantize
    other, made = dtype if residual else None, torch.int8 if quantize else dtype
    operands: list[Operand] = [dtype, other, dtype, None if rms else dtype, made]
    operands += [torch.float32 if quantize else None, other, 4096, channels, 1e-5]
    constants = {
        "RESIDUAL": residual, "WEIGHT": True, "BIAS": not rms, "RMS": rms, "QUANTIZE": quantize,
        "BLOCK_CHANNELS": power(channels, 16),
    }  # fmt: skip
    return Variant("norm", ", ".join(parts), kernel, operands, constants, chosen(TILES, at, channels))
