"""`tersor::scaled_matmul`: a linear layer on int8 or fp8 tensor cores, with scales, bias and activation at its end.

Products of bytes are summed in int32 or float32; scales of tokens and outputs, and the zero point of asymmetric
activations, are applied to the sums. Where a GPU has no fp8 tensor cores, as sm_80 has none, fp8 becomes float16 on
its way.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tersor.cost.roofline import Work
from tersor.errors import UsageError
from tersor.kernels.activations import activate, activated, number
from tersor.kernels.ahead_of_time import Operand, Variant
from tersor.kernels.autotune import best
from tersor.kernels.language import (
    FLOATS,
    blocks,
    capability,
    check_shape,
    empty,
    jit,
    on_gpu,
    run,
    static,
    tl,
    wrap_triton,
)
from tersor.kernels.tile import Table, Tile, chosen, tile

NAME = "tersor::scaled_matmul"
FORMATS = {torch.int8: 0, torch.float8_e4m3fn: 1, torch.float8_e5m2: 2}
"""What x and weight are kept in, by its number in the kernel."""

TILES: Table = {
    80: [
        (16, tile(4, 4, BLOCK_M=16, BLOCK_N=64, BLOCK_K=128)),
        (64, tile(4, 4, BLOCK_M=64, BLOCK_N=64, BLOCK_K=128)),
        (1 << 30, tile(8, 3, BLOCK_M=128, BLOCK_N=128, BLOCK_K=64)),
    ],
    90: [
        (16, tile(4, 5, BLOCK_M=16, BLOCK_N=64, BLOCK_K=128)),
        (64, tile(4, 4, BLOCK_M=64, BLOCK_N=64, BLOCK_K=128)),
        (1 << 30, tile(8, 4, BLOCK_M=128, BLOCK_N=128, BLOCK_K=128)),
    ],
}
"""By rows."""


def reference(
    x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor, bias: Tensor | None = None,
    zero: Tensor | None = None, sums: Tensor | None = None, activation: str = "none",
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:  # fmt: skip
    """``activation((x - zero) * x_scale @ (weight * weight_scale).T + bias)``, rounded once.

    Args:
        x: ``[..., in]``, int8, float8_e4m3fn or float8_e5m2.
        weight: ``[out, in]``, in the dtype of x.
        x_scale: float32, one for each row of x, or one for all.
        weight_scale: float32 ``[out]``.
        bias: ``[out]``, of a floating dtype.
        zero: int32 as x_scale, the level that stands for 0 in int8 activations.
        sums: int32 ``[out]``, of the levels of each output's weights; needed where there is a zero.
        activation: one of `tersor.kernels.activations.ACTIVATIONS`.
        dtype: of the result, float32, float16 or bfloat16.

    Returns:
        ``[..., out]``.

    Raises:
        UsageError: shapes, dtypes or names do not belong together.

    >>> x, one = torch.tensor([[2, 3]], dtype=torch.int8), torch.ones(1)
    >>> reference(x, x, one / 2, one, activation="relu", dtype=torch.float32)
    tensor([[6.5000]])
    """
    check(x, weight, x_scale, weight_scale, bias, zero, sums, activation, dtype)
    total = x.double() @ weight.double().T
    shape = (*x.shape[:-1], 1) if x_scale.numel() != 1 else (1,) * x.dim()
    if zero is not None and sums is not None:
        total = total - zero.reshape(shape).double() * sums.double()
    total = total * x_scale.reshape(shape).double() * weight_scale.double()
    total = total if bias is None else total + bias.double()
    return activate(total.float(), activation).to(dtype)


def check(
    x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor, bias: Tensor | None, zero: Tensor | None,
    sums: Tensor | None, activation: str, dtype: torch.dtype,
) -> None:  # fmt: skip
    """Raise UsageError unless the operands of `reference` belong together."""
    number(activation)
    if x.dtype not in FORMATS or weight.dtype != x.dtype or dtype not in FLOATS:
        raise UsageError(f"x of {x.dtype}, weight of {weight.dtype} to {dtype}", "two int8 or fp8, to a float")
    if weight.dim() != 2 or x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise UsageError(f"x {tuple(x.shape)} and weight {tuple(weight.shape)}", "[..., in] and [out, in]")
    for name, item in (("weight_scale", weight_scale), ("bias", bias), ("sums", sums)):
        check_shape(name, item, weight.shape[:1])
    rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
    if x_scale.numel() not in (1, rows) or (zero is not None and zero.numel() != x_scale.numel()):
        raise UsageError(f"x_scale of shape {tuple(x_scale.shape)}", f"1 or {rows} numbers, and zero alike")
    if (zero is None) != (sums is None) or (zero is not None and x.dtype != torch.int8):
        raise UsageError("zero without sums, sums without zero, or zero of fp8", "both, of int8, or none")
    if x_scale.dtype != torch.float32 or weight_scale.dtype != torch.float32:
        raise UsageError(f"scales of {x_scale.dtype} and {weight_scale.dtype}", "float32")


def work(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> Work:
    """Operations and bytes of one call with a scale for each row and no bias; ``dtype`` is that of the result.

    >>> work(1, 4096, 4096, torch.bfloat16).bytes / 2**20
    16.02734...
    """
    moved = rows * (inputs + 4) + outputs * (inputs + 4) + rows * outputs * dtype.itemsize
    return Work(2.0 * rows * inputs * outputs, moved)


@jit
def _decoded(bits, FORMAT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Float16 of the bits of fp8: moved to their places, where the exponent of E4M3 is eight too small."""
    bits = bits.to(tl.uint16)
    if FORMAT == 1:
        made = (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True) * 256.0
        made = tl.where((bits & 0x7F) == 0x7F, float("nan"), made)
    else:
        made = (bits << 8).to(tl.float16, bitcast=True)
    return made


@jit
def kernel(  # type: ignore[no-untyped-def]
    x, weight, x_scale, weight_scale, bias, zero, sums, made, rows, inputs, outputs,
    FORMAT: tl.constexpr, DECODE: tl.constexpr, PER_ROW: tl.constexpr, BIAS: tl.constexpr, ZERO: tl.constexpr,
    ACTIVATION: tl.constexpr, WHOLE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One block of rows and outputs; all operands contiguous. WHOLE says that BLOCK_K divides the inputs."""
    # Eight blocks of rows for each block of outputs, so that both stay in the cache.
    down, across = tl.cdiv(rows, BLOCK_M), tl.cdiv(outputs, BLOCK_N)
    first = tl.program_id(0) // (8 * across) * 8
    height, inside = tl.minimum(down - first, 8), tl.program_id(0) % (8 * across)
    row = (first + inside % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = inside // height * BLOCK_N + tl.arange(0, BLOCK_N)
    # Beyond the edge the last row and column are computed again rather than masked; nothing of that is stored.
    from_row, from_column = tl.minimum(row, rows - 1).to(tl.int64), tl.minimum(column, outputs - 1).to(tl.int64)
    k = tl.arange(0, BLOCK_K)
    x_at = x + from_row[:, None] * inputs + k[None, :]
    weight_at = weight + from_column[None, :] * inputs + k[:, None]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.int32 if FORMAT == 0 else tl.float32)
    for start in range(0, inputs, BLOCK_K):
        if WHOLE:
            left, right = tl.load(x_at + start), tl.load(weight_at + start)
        else:
            left = tl.load(x_at + start, mask=k[None, :] < inputs - start, other=0)
            right = tl.load(weight_at + start, mask=k[:, None] < inputs - start, other=0)
        if FORMAT == 0:
            total = tl.dot(left, right, total, out_dtype=tl.int32)
        elif DECODE:
            total = tl.dot(_decoded(left, FORMAT), _decoded(right, FORMAT), total)
        else:
            # Tensor cores of sm_90 keep about 14 bits of sums of fp8; each block is added in float32.
            total = tl.dot(left, right, total, max_num_imprecise_acc=BLOCK_K)
    if ZERO:
        level = tl.load(zero + (from_row if PER_ROW else from_row * 0))
        total -= level[:, None] * tl.load(sums + from_column)[None, :]
    value = total.to(tl.float32) * tl.load(weight_scale + from_column)[None, :]
    value *= tl.load(x_scale + (from_row if PER_ROW else from_row * 0))[:, None]
    if BIAS:
        value += tl.load(bias + from_column).to(tl.float32)[None, :]
    value = activated(value, ACTIVATION)
    made_at = made + row[:, None].to(tl.int64) * outputs + column[None, :]
    tl.store(made_at, value.to(made.dtype.element_ty), mask=(row[:, None] < rows) & (column[None, :] < outputs))


def decodes(at: int, inputs: int) -> bool:
    """Whether fp8 is multiplied as float16: on sm_80, and where blocks are cut, as Triton masks no loads of fp8.

    >>> decodes(80, 4096), decodes(90, 4096), decodes(90, 4000)
    (True, False, True)
    """
    return at < 90 or inputs % max(cut.blocks["BLOCK_K"] for _, cut in TILES[at]) != 0


def launch(
    x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor, bias: Tensor | None = None,
    zero: Tensor | None = None, sums: Tensor | None = None, activation: str = "none",
    dtype: torch.dtype = torch.bfloat16, decode: bool | None = None, cut: Tile | None = None,
) -> Tensor:  # fmt: skip
    """`reference` by the Triton kernel, on a GPU or under Triton's interpreter.

    Args:
        decode: multiply fp8 as float16; where None, as `decodes` says.
    """
    check(x, weight, x_scale, weight_scale, bias, zero, sums, activation, dtype)
    inputs, outputs, at = weight.shape[1], weight.shape[0], capability(x)
    made = x.new_empty(*x.shape[:-1], outputs, dtype=dtype)
    if empty(made):
        return made
    if empty(x):
        return reference(x, weight, x_scale, weight_scale, bias, zero, sums, activation, dtype)
    rows = x.numel() // inputs
    kind, decode = FORMATS[x.dtype], decodes(at, inputs) if decode is None else decode
    left, right = (item.contiguous() for item in (x, weight))
    if kind and decode:
        left, right = left.view(torch.uint8), right.view(torch.uint8)
    given = (item if item is None else item.contiguous() for item in (x_scale, weight_scale, bias, zero, sums))
    operands = (left, right, *given, made, rows, inputs, outputs)
    constants = {
        "FORMAT": kind, "DECODE": bool(kind) and decode, "PER_ROW": bool(x_scale.numel() != 1),
        "BIAS": bias is not None, "ZERO": zero is not None, "ACTIVATION": number(activation),
    }  # fmt: skip

    def go(cut: Tile) -> None:
        grid = (blocks(rows, cut.blocks["BLOCK_M"]) * blocks(outputs, cut.blocks["BLOCK_N"]),)
        run(wrap_triton(kernel), grid, cut, *operands, **constants, WHOLE=inputs % cut.blocks["BLOCK_K"] == 0)

    key = (NAME, at, x.dtype, static(rows), inputs, outputs)
    go(cut or best(key, chosen(TILES, at, static(rows)), [item for _, item in TILES[at]], go))
    return made


@torch.library.triton_op(NAME, mutates_args=())
def scaled_matmul(
    x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor, bias: Tensor | None = None,
    zero: Tensor | None = None, sums: Tensor | None = None, activation: str = "none",
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:  # fmt: skip
    """`reference`, by the Triton kernel on a GPU."""
    if on_gpu(x):
        return launch(x, weight, x_scale, weight_scale, bias, zero, sums, activation, dtype)
    return reference(x, weight, x_scale, weight_scale, bias, zero, sums, activation, dtype)


@scaled_matmul.register_fake
def _fake(
    x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor, bias: Tensor | None = None,
    zero: Tensor | None = None, sums: Tensor | None = None, activation: str = "none",
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:  # fmt: skip
    check(x, weight, x_scale, weight_scale, bias, zero, sums, activation, dtype)
    return x.new_empty(*x.shape[:-1], weight.shape[0], dtype=dtype)


def variants(at: int) -> Iterator[Variant]:
    """What it is compiled for ahead of time."""
    for rows in (1, 64, 4096):
        yield variant(at, torch.int8, rows, 4096, 4096)
        yield variant(at, torch.float8_e4m3fn, rows, 4096, 4096)
    yield variant(at, torch.int8, 4096, 4096, 14336, zero=True, activation="silu")
    yield variant(at, torch.float8_e5m2, 4096, 4000, 4096)


def variant(
    at: int, kind: torch.dtype, rows: int, inputs: int, outputs: int, zero: bool = False, activation: str = "none"
) -> Variant:
    """One format, with a bias, to bfloat16."""
    cut, whole, decode = chosen(TILES, at, rows), torch.float32, FORMATS[kind] > 0 and decodes(at, inputs)
    kept, integers = torch.uint8 if decode else kind, torch.int32 if zero else None
    operands: list[Operand] = [kept, kept, whole, whole, torch.bfloat16, integers, integers, torch.bfloat16]
    text = f"{rows} x {inputs} to {outputs}, {str(kind).removeprefix('torch.')}" + ", zero" * zero
    text += f", {activation}" * (activation != "none")
    constants = {
        "FORMAT": FORMATS[kind], "DECODE": decode, "PER_ROW": True, "BIAS": True, "ZERO": zero,
        "ACTIVATION": number(activation), "WHOLE": inputs % cut.blocks["BLOCK_K"] == 0,
    }  # fmt: skip
    return Variant("scaled_matmul", text, kernel, [*operands, rows, inputs, outputs], constants, cut)
