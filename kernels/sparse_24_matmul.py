"""`tersor::sparse_24_matmul`: a linear layer with a compressed 2:4 weight, for few rows, where reading it is the time.

The weight stays compressed on its way to the registers, where each block of two values gets its two zeros back; then
tensor cores multiply it as if it were dense. So it saves bytes and no arithmetic: see `work`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tersor.cost.roofline import Work
from tersor.errors import UsageError
from tersor.kernels.ahead_of_time import Code, Operand, Variant
from tersor.kernels.autotune import best
from tersor.kernels.language import blocks, capability, empty, jit, on_gpu, run, static, tl, wrap_triton
from tersor.kernels.tile import Table, Tile, chosen, tile
from tersor.sparse.pack import Packed, packed_bytes, unpack

NAME = "tersor::sparse_24_matmul"


def reference(
    x: Tensor, values: Tensor, metadata: Tensor, scale: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """``x @ weight.T * scale + bias``, summed in float32.

    Args:
        x: ``[..., in]``, float32, float16 or bfloat16; ``in`` is a multiple of 4.
        values: ``[out, in / 2]`` kept weights as `tersor.sparse.pack.pack` gives them, in the dtype of x, or int8.
        metadata: uint8 ``[out, ceil(in / 8)]``, their places.
        scale: ``[out]``, of int8 weights; None for 1.
        bias: ``[out]``.

    Returns:
        ``[..., out]`` in the dtype of x.

    Raises:
        UsageError: shapes or dtypes do not belong together.

    >>> from tersor.sparse.pack import pack
    >>> packed = pack(torch.tensor([[0.0, 2.0, 3.0, 0.0]]))
    >>> reference(torch.ones(1, 4), packed.values, packed.metadata)
    tensor([[5.]])
    """
    check(x, values, metadata, scale, bias)
    weight = unpack(Packed(values, metadata)).float()
    made = torch.nn.functional.linear(x.float(), weight)
    made = made if scale is None else made * scale.float()
    return (made if bias is None else made + bias.float()).to(x.dtype)


def check(x: Tensor, values: Tensor, metadata: Tensor, scale: Tensor | None, bias: Tensor | None) -> None:
    """Raise UsageError unless the operands of `reference` belong together; sizes may be symbolic."""
    if values.dim() != 2 or x.dim() < 1 or x.shape[-1] != 2 * values.shape[1] or x.shape[-1] % 4:
        raise UsageError(f"inputs {tuple(x.shape)} for values {tuple(values.shape)}", "[..., in] and [out, in / 2]")
    wanted = (values.shape[0], -(-x.shape[-1] // 8))
    if metadata.dtype != torch.uint8 or tuple(metadata.shape) != wanted:
        raise UsageError(f"metadata {tuple(metadata.shape)} of {metadata.dtype}", f"uint8 of shape {wanted}")
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16) or values.dtype not in (x.dtype, torch.int8):
        raise UsageError(f"inputs of {x.dtype} and values of {values.dtype}", "floats of one dtype, or int8 values")
    for name, item in (("scale", scale), ("bias", bias)):
        if item is not None and tuple(item.shape) != (values.shape[0],):
            raise UsageError(
                f"{name} of shape {tuple(item.shape)}", f"one number for each of {values.shape[0]} outputs"
            )


def work(rows: int, inputs: int, outputs: int, x: torch.dtype, values: torch.dtype, bias: bool = True) -> Work:
    """Operations and bytes of one call; operations are the dense ones, as the kernel multiplies the zeros too.

    Compressed weights take 9/16 of the dense bytes in 16 bits, and 10/16 of them in 8 bits, which is 5/16 of 16 bits.

    >>> one = work(1, 4096, 4096, torch.bfloat16, torch.bfloat16)
    >>> round(one.bytes / 2**20, 2), round(one.intensity, 2)
    (18.02, 1.78)
    """
    per_output = (4 if values == torch.int8 else 0) + (x.itemsize if bias else 0)
    moved = rows * (inputs + outputs) * x.itemsize + packed_bytes(outputs, inputs, values) + outputs * per_output
    return Work(2.0 * rows * inputs * outputs, moved)


TILES: Table = {
    at: [
        (16, tile(4, 3, BLOCK_ROWS=16, BLOCK_OUT=32, BLOCK_BYTES=32)),
        (32, tile(4, 3, BLOCK_ROWS=32, BLOCK_OUT=32, BLOCK_BYTES=32)),
        (1 << 30, tile(4, 3, BLOCK_ROWS=64, BLOCK_OUT=32, BLOCK_BYTES=16)),
    ]
    for at in (80, 90)
}
"""By rows; blocks of outputs are narrow, so that there is one for each of a GPU's multiprocessors."""


def fitted(cut: Tile, outputs: int, dtype: torch.dtype) -> Tile:
    """A tile for few outputs, and for numbers of four bytes."""
    narrow = cut.blocks["BLOCK_OUT"] if outputs >= 2048 else 16
    size = cut.blocks["BLOCK_BYTES"] // 2 if dtype == torch.float32 else cut.blocks["BLOCK_BYTES"]
    return tile(cut.warps, cut.stages, **{**cut.blocks, "BLOCK_OUT": narrow, "BLOCK_BYTES": size})


@jit
def kernel(  # type: ignore[no-untyped-def]
    x, values, metadata, scale, bias, made, rows, inputs, outputs,
    EXACT: tl.constexpr, WHOLE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_OUT: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
):  # fmt: skip
    """One block of outputs for one block of rows; all operands contiguous.

    ``scale`` and ``bias`` may be None. EXACT multiplies in float32; WHOLE says that BLOCK_BYTES divides the bytes
    of metadata of an output, eight inputs each.
    """
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    # Beyond the edge the last row and column are computed again rather than masked; nothing of that is stored.
    from_row = tl.minimum(row, rows - 1).to(tl.int64)
    from_column = tl.minimum(column, outputs - 1).to(tl.int64)
    byte, half, whole = (
        tl.arange(0, BLOCK_BYTES), tl.arange(0, 4 * BLOCK_BYTES), tl.arange(0, 8 * BLOCK_BYTES)
    )  # fmt: skip
    count = tl.cdiv(inputs, 8)
    code_at = metadata + from_column[:, None] * count + byte[None, :]
    value_at = values + from_column[:, None] * (inputs // 2) + half[None, :]
    x_at = x + from_row[None, :] * inputs + whole[:, None]
    total = tl.zeros([BLOCK_OUT, BLOCK_ROWS], tl.float32)
    for start in range(0, count, BLOCK_BYTES):
        if WHOLE:
            code = tl.load(code_at + start)
            value = tl.load(value_at + 4 * start)
            tile = tl.load(x_at + 8 * start)
        else:
            code = tl.load(code_at + start, mask=byte[None, :] < count - start, other=0)
            value = tl.load(value_at + 4 * start, mask=half[None, :] < inputs // 2 - 4 * start, other=0)
            tile = tl.load(x_at + 8 * start, mask=whole[:, None] < inputs - 8 * start, other=0)
        if EXACT:
            value, tile = value.to(tl.float32), tile.to(tl.float32)
        else:
            value = value.to(x.dtype.element_ty)
        first, second = tl.split(tl.reshape(value, [BLOCK_OUT, BLOCK_BYTES, 2, 2]))
        code = code.to(tl.int32)
        code = tl.join(code, code >> 4)
        # Places ascend, so that single bits tell them apart: the first is 0, 1 or 2, the second 1, 2 or 3.
        zero = tl.zeros_like(first)
        at_0 = tl.where((code & 3) == 0, first, zero)
        at_1 = tl.where((code & 1) != 0, first, tl.where((code & 8) == 0, second, zero))
        at_2 = tl.where((code & 4) == 0, second, tl.where((code & 2) != 0, first, zero))
        at_3 = tl.where((code & 8) != 0, tl.where((code & 4) != 0, second, zero), zero)
        dense = tl.join(tl.join(at_0, at_2), tl.join(at_1, at_3))
        dense = tl.reshape(dense, [BLOCK_OUT, 8 * BLOCK_BYTES])
        total = tl.dot(dense, tile, total, input_precision="ieee")
    if scale is not None:
        total *= tl.load(scale + from_column).to(tl.float32)[:, None]
    if bias is not None:
        total += tl.load(bias + from_column).to(tl.float32)[:, None]
    made_at = made + row[None, :].to(tl.int64) * outputs + column[:, None]
    tl.store(made_at, total.to(made.dtype.element_ty), mask=(row[None, :] < rows) & (column[:, None] < outputs))


def launch(
    x: Tensor,
    values: Tensor,
    metadata: Tensor,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    exact: bool = False,
    cut: Tile | None = None,
) -> Tensor:
    """`reference` by the Triton kernel, on a GPU or under Triton's interpreter.

    Args:
        exact: multiply in float32 whatever the format is, as the interpreter needs for bfloat16.
        cut: the tile, that of the table where None.
    """
    check(x, values, metadata, scale, bias)
    inputs, outputs, at = x.shape[-1], values.shape[0], capability(x)
    made = x.new_empty(*x.shape[:-1], outputs)
    if empty(made) or not inputs:
        return made if empty(made) else reference(x, values, metadata, scale, bias)
    rows = x.numel() // inputs
    given = (item if item is None else item.contiguous() for item in (x, values, metadata, scale, bias))
    operands = (*given, made, rows, inputs, outputs)

    def go(cut: Tile) -> None:
        cut = fitted(cut, outputs, x.dtype)
        grid = (blocks(rows, cut.blocks["BLOCK_ROWS"]), blocks(outputs, cut.blocks["BLOCK_OUT"]))
        run(wrap_triton(kernel), grid, cut, *operands, EXACT=exact, WHOLE=inputs % (8 * cut.blocks["BLOCK_BYTES"]) == 0)

    key = (NAME, at, x.dtype, values.dtype, static(rows), inputs, outputs)
    go(cut or best(key, chosen(TILES, at, static(rows)), [item for _, item in TILES[at]], go))
    return made


def compiled(rows: int, inputs: int, outputs: int, x: torch.dtype, values: torch.dtype, at: int) -> Code:
    """What a GPU of this compute capability runs for these sizes; raises BackendError as `build` does."""
    return variant(at, rows, inputs, outputs, x, values).compile(at)


def variant(at: int, rows: int, inputs: int, outputs: int, x: torch.dtype, values: torch.dtype) -> Variant:
    """One format, with a bias."""
    cut = fitted(chosen(TILES, at, rows), outputs, x)
    names = [str(dtype).removeprefix("torch.") for dtype in (x, values)]
    text = f"{rows} x {inputs} to {outputs}, {names[0]}" + (f", {names[1]} weights" if x != values else "")
    scale = torch.float32 if values == torch.int8 else None
    operands: list[Operand] = [x, values, torch.uint8, scale, x, x, rows, inputs, outputs]
    constants = {"EXACT": False, "WHOLE": inputs % (8 * cut.blocks["BLOCK_BYTES"]) == 0}
    return Variant("sparse_24_matmul", text, kernel, operands, constants, cut)


def variants(at: int) -> Iterator[Variant]:
    """What it is compiled for ahead of time."""
    half = torch.bfloat16
    for rows, inputs, outputs in ((1, 4096, 4096), (64, 4096, 14336)):
        for x, values in ((half, half), (torch.float16, torch.float16), (half, torch.int8)):
            yield variant(at, rows, inputs, outputs, x, values)
    yield variant(at, 1, 4096, 4096, torch.float32, torch.float32)
    yield variant(at, 3, 100, 37, half, half)


@torch.library.triton_op(NAME, mutates_args=())
def sparse_24_matmul(
    x: Tensor, values: Tensor, metadata: Tensor, scale: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """`reference`, by the Triton kernel on a GPU."""
    if on_gpu(x):
        return launch(x, values, metadata, scale, bias)
    return reference(x, values, metadata, scale, bias)


@sparse_24_matmul.register_fake
def _fake(
    x: Tensor, values: Tensor, metadata: Tensor, scale: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    check(x, values, metadata, scale, bias)
    return x.new_empty(*x.shape[:-1], values.shape[0])
