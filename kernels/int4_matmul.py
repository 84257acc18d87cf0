"""`tersor::int4_matmul`: a linear layer with four-bit weights in groups, for few rows, where reading them is the time.

Two weights lie in a byte and become numbers in registers, where tensor cores multiply them in the dtype of x. So it
saves bytes and no arithmetic (as in AWQ, arXiv:2306.00978, and Marlin, arXiv:2408.11743).
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
    run,
    static,
    tl,
    wrap_triton,
)
from tersor.kernels.tile import Table, Tile, chosen, tile

NAME = "tersor::int4_matmul"
MIDDLE = 8
"""The level that stands for 0 where there are no zero points."""
LEAST = 16
"""Tensor cores multiply so many inputs at a time, which must have one scale."""

TILES: Table = {
    at: [
        (16, tile(4, 4, BLOCK_ROWS=16, BLOCK_OUT=32, BLOCK_IN=128)),
        (32, tile(4, 4, BLOCK_ROWS=32, BLOCK_OUT=32, BLOCK_IN=128)),
        (1 << 30, tile(4, 3, BLOCK_ROWS=64, BLOCK_OUT=64, BLOCK_IN=64)),
    ]
    for at in (80, 90)
}
"""By rows; blocks of outputs are narrow, so that there is one for each multiprocessor."""


def pack(level: Tensor) -> Tensor:
    """Levels 0 to 15 ``[out, in]``, two in a byte, the earlier one in the lower bits: uint8 ``[out, in / 2]``.

    Raises:
        UsageError: an odd number of inputs, or other levels.

    >>> pack(torch.tensor([[1, 2, 15, 0]])).tolist()
    [[33, 15]]
    """
    if level.dim() != 2 or level.shape[1] % 2 or (level.numel() and not 0 <= int(level.min()) <= int(level.max()) < 16):
        raise UsageError(f"levels of shape {tuple(level.shape)}", "[out, in] from 0 to 15, an even number of inputs")
    level = level.to(torch.uint8)
    return level[:, 0::2] + 16 * level[:, 1::2]


def unpack(packed: Tensor) -> Tensor:
    """Levels as `pack` got them, uint8.

    >>> unpack(torch.tensor([[33, 15]], dtype=torch.uint8)).tolist()
    [[1, 2, 15, 0]]
    """
    return torch.stack([packed & 15, packed >> 4], -1).flatten(1)


def reference(
    x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """``x @ weight.T + bias``, the weight rounded to the dtype of x, summed in float32.

    Args:
        x: ``[..., in]``, float32, float16 or bfloat16.
        packed: levels as `pack` gives them, uint8 ``[out, in / 2]``.
        scale: ``[out, groups]``, of a floating dtype; groups of a multiple of 16 inputs.
        zero: uint8 ``[out, groups]``, the level of each group that stands for 0; None is 8.
        bias: ``[out]``.

    Returns:
        ``[..., out]`` in the dtype of x.

    Raises:
        UsageError: shapes or dtypes do not belong together.

    >>> level = torch.full((1, 16), 9)
    >>> reference(torch.ones(1, 16), pack(level), torch.full((1, 1), 0.5))
    tensor([[8.]])
    """
    check(x, packed, scale, zero, bias)
    level = unpack(packed).float().unflatten(1, (scale.shape[1], -1))
    level = level - (MIDDLE if zero is None else zero.float()[..., None])
    weight = (level * scale.float()[..., None]).flatten(1).to(x.dtype)
    made = torch.nn.functional.linear(x.float(), weight.float())
    return (made if bias is None else made + bias.float()).to(x.dtype)


def check(x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None) -> None:
    """Raise UsageError unless the operands of `reference` belong together."""
    check_floats(x=x)
    if packed.dim() != 2 or packed.dtype != torch.uint8 or x.dim() < 1 or x.shape[-1] != 2 * packed.shape[1]:
        raise UsageError(f"x {tuple(x.shape)} and packed {tuple(packed.shape)}", "[..., in], uint8 [out, in / 2]")
    if scale.dim() != 2 or scale.shape[0] != packed.shape[0] or scale.shape[1] < 1 or not scale.is_floating_point():
        raise UsageError(f"scale {tuple(scale.shape)} of {scale.dtype}", "floats [out, groups]")
    if x.shape[-1] % scale.shape[1] or x.shape[-1] // scale.shape[1] % LEAST:
        raise UsageError(f"{x.shape[-1]} inputs in {scale.shape[1]} groups", f"groups of a multiple of {LEAST}")
    check_shape("zero", zero, scale.shape)
    check_shape("bias", bias, packed.shape[:1])
    if zero is not None and zero.dtype != torch.uint8:
        raise UsageError(f"zero of {zero.dtype}", "uint8")


def work(rows: int, inputs: int, outputs: int, group: int, dtype: torch.dtype, zero: bool = False) -> Work:
    """Operations and bytes of one call with scales in ``dtype`` and no bias.

    >>> round(work(1, 4096, 4096, 128, torch.bfloat16).bytes / (4096 * 4096 * 2), 3)
    0.258
    """
    groups = outputs * (inputs // group)
    moved = rows * (inputs + outputs) * dtype.itemsize + outputs * inputs // 2 + groups * (dtype.itemsize + zero)
    return Work(2.0 * rows * inputs * outputs, moved)


@jit
def kernel(  # type: ignore[no-untyped-def]
    x, packed, scale, zero, bias, made, rows, inputs, outputs, group,
    ZERO: tl.constexpr, BIAS: tl.constexpr, WHOLE: tl.constexpr, EXACT: tl.constexpr, GROUPS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """One block of outputs for one block of rows; all operands contiguous.

    GROUPS are those of BLOCK_IN inputs; where it is 1, a group may be several blocks. EXACT multiplies in float32.
    """
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    # Beyond the edge the last row and column are computed again rather than masked; nothing of that is stored.
    from_row, from_column = tl.minimum(row, rows - 1).to(tl.int64), tl.minimum(column, outputs - 1).to(tl.int64)
    byte, k, part = tl.arange(0, BLOCK_IN // 2), tl.arange(0, BLOCK_IN), tl.arange(0, GROUPS)
    groups = inputs // group
    packed_at = packed + from_column[:, None] * (inputs // 2) + byte[None, :]
    x_at = x + from_row[None, :] * inputs + k[:, None]
    group_at = from_column[:, None] * groups + part[None, :]
    total = tl.zeros([BLOCK_OUT, BLOCK_ROWS], tl.float32)
    for start in range(0, inputs, BLOCK_IN):
        at = start // group
        if WHOLE:
            level, tile = tl.load(packed_at + start // 2), tl.load(x_at + start)
            factor = tl.load(scale + group_at + at)
        else:
            level = tl.load(packed_at + start // 2, mask=byte[None, :] < (inputs - start) // 2, other=0)
            tile = tl.load(x_at + start, mask=k[:, None] < inputs - start, other=0.0)
            factor = tl.load(scale + group_at + at, mask=part[None, :] < groups - at, other=0.0)
        middle = tl.full([BLOCK_OUT, GROUPS], 8.0, tl.float32)
        if ZERO:
            middle = tl.load(zero + group_at + at, mask=part[None, :] < groups - at, other=0).to(tl.float32)
        value = tl.reshape(tl.join(level & 15, level >> 4), [BLOCK_OUT, GROUPS, BLOCK_IN // GROUPS]).to(tl.float32)
        value = (value - middle[:, :, None]) * factor.to(tl.float32)[:, :, None]
        value = tl.reshape(value, [BLOCK_OUT, BLOCK_IN])
        if EXACT:
            tile = tile.to(tl.float32)
        total = tl.dot(value.to(tile.dtype), tile, total, input_precision="ieee")
    if BIAS:
        total += tl.load(bias + from_column).to(tl.float32)[:, None]
    made_at = made + row[None, :].to(tl.int64) * outputs + column[:, None]
    tl.store(made_at, total.to(made.dtype.element_ty), mask=(row[None, :] < rows) & (column[:, None] < outputs))


def fitted(cut: Tile, group: int) -> Tile:
    """A tile whose blocks of inputs are whole groups, or whole parts of one.

    >>> fitted(tile(4, 3, BLOCK_IN=128), 96).blocks["BLOCK_IN"]
    32
    """
    size = cut.blocks["BLOCK_IN"]
    if size % group and group % size:
        size = min(size, group & -group)
    return tile(cut.warps, cut.stages, **{**cut.blocks, "BLOCK_IN": size})


def launch(
    x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor | None = None, bias: Tensor | None = None,
    exact: bool = False, cut: Tile | None = None,
) -> Tensor:  # fmt: skip
    """`reference` by the Triton kernel, on a GPU or under Triton's interpreter.

    Args:
        exact: multiply in float32 whatever the format is, as the interpreter needs for bfloat16.
    """
    check(x, packed, scale, zero, bias)
    inputs, outputs, at = x.shape[-1], packed.shape[0], capability(x)
    made, group = x.new_empty(*x.shape[:-1], outputs), x.shape[-1] // scale.shape[1]
    if empty(made) or not inputs:
        return made if empty(made) else reference(x, packed, scale, zero, bias)
    rows = x.numel() // inputs
    given = (item if item is None else item.contiguous() for item in (x, packed, scale, zero, bias))
    operands = (*given, made, rows, inputs, outputs, group)

    def go(cut: Tile) -> None:
        cut = fitted(cut, group)
        grid = (blocks(rows, cut.blocks["BLOCK_ROWS"]), blocks(outputs, cut.blocks["BLOCK_OUT"]))
        constants = _constants(inputs, group, zero is not None, bias is not None, exact, cut)
        run(wrap_triton(kernel), grid, cut, *operands, **constants)

    key = (NAME, at, x.dtype, static(rows), inputs, outputs, group)
    go(cut or best(key, chosen(TILES, at, static(rows)), [item for _, item in TILES[at]], go))
    return made


def _constants(inputs: int, group: int, zero: bool, bias: bool, exact: bool, cut: Tile) -> dict[str, object]:
    size = cut.blocks["BLOCK_IN"]
    parts = max(1, size // group)
    return {"ZERO": zero, "BIAS": bias, "WHOLE": inputs % size == 0, "EXACT": exact, "GROUPS": parts}


@torch.library.triton_op(NAME, mutates_args=())
def int4_matmul(
    x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """`reference`, by the Triton kernel on a GPU."""
    return launch(x, packed, scale, zero, bias) if on_gpu(x) else reference(x, packed, scale, zero, bias)


@int4_matmul.register_fake
def _fake(x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    check(x, packed, scale, zero, bias)
    return x.new_empty(*x.shape[:-1], packed.shape[0])


def variants(at: int) -> Iterator[Variant]:
    """What it is compiled for ahead of time."""
    for rows, inputs, group, dtype, zero in (
        (1, 4096, 128, torch.bfloat16, True), (1, 4096, 32, torch.bfloat16, False), (32, 4096, 64, torch.float16, True),
        (256, 4096, 128, torch.bfloat16, True), (1, 4096, 4096, torch.float32, False), (3, 96, 48, torch.float16, True),
    ):  # fmt: skip
        cut = fitted(chosen(TILES, at, rows), group)
        parts = [f"{rows} x {inputs} to 4096", str(dtype).removeprefix("torch."), f"groups of {group}"]
        operands: list[Operand] = [dtype, torch.uint8, dtype, torch.uint8 if zero else None, None, dtype]
        constants = _constants(inputs, group, zero, False, False, cut)
        text = ", ".join(parts + ["zero points"] * zero)
        yield Variant("int4_matmul", text, kernel, [*operands, rows, inputs, 4096, group], constants, cut)
