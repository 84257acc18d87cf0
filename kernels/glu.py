"""`tersor::glu`: the activation of one half times the other half, which may be parts of one tensor.

Shazeer, GLU variants improve Transformer (arXiv:2002.05202). Both are read once and nothing in between is stored.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tersor.cost.roofline import Work
from tersor.kernels.activations import activate, activated, number
from tersor.kernels.ahead_of_time import Variant
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

NAME = "tersor::glu"

TILES: Table = {
    at: [
        (256, tile(4, 1, BLOCK_ROWS=4, BLOCK_CHANNELS=256)),
        (512, tile(4, 1, BLOCK_ROWS=2, BLOCK_CHANNELS=512)),
        (1 << 30, tile(4, 1, BLOCK_ROWS=1, BLOCK_CHANNELS=1024)),
    ]
    for at in (80, 90)
}
"""By channels; eight numbers of each operand for a thread, 16 bytes of 16-bit formats."""


def reference(gate: Tensor, up: Tensor, activation: str = "silu") -> Tensor:
    """``activation(gate) * up`` in float32, rounded once.

    Args:
        gate, up: ``[..., channels]`` of one shape and dtype, float32, float16 or bfloat16.
        activation: one of `tersor.kernels.activations.ACTIVATIONS`.

    Returns:
        ``[..., channels]``, contiguous.

    Raises:
        UsageError: shapes, dtypes or names do not belong together.

    >>> reference(torch.tensor([-1.0, 2.0]), torch.tensor([5.0, 3.0]), "relu")
    tensor([0., 6.])
    """
    check(gate, up, activation)
    return (activate(gate.float(), activation) * up.float()).to(gate.dtype).contiguous()


def check(gate: Tensor, up: Tensor, activation: str) -> None:
    """Raise UsageError unless the operands of `reference` belong together."""
    number(activation)
    check_floats(gate=gate, up=up)
    check_shape("up", up, gate.shape)


def work(rows: int, channels: int, dtype: torch.dtype) -> Work:
    """Operations, six for each number, and bytes of one call.

    >>> work(1, 1024, torch.float16).bytes
    6144
    """
    return Work(6.0 * rows * channels, 3 * rows * channels * dtype.itemsize)


@jit
def kernel(  # type: ignore[no-untyped-def]
    gate, up, made, rows, channels, gate_row, up_row,
    ACTIVATION: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """A block of rows and channels; ``gate_row`` and ``up_row`` are from one row to the next."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = (row[:, None] < rows) & (column[None, :] < channels)
    row64 = row[:, None].to(tl.int64)
    first = tl.load(gate + row64 * gate_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
    second = tl.load(up + row64 * up_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
    value = activated(first, ACTIVATION) * second
    tl.store(made + row64 * channels + column[None, :], value.to(made.dtype.element_ty), mask=inside)


def launch(gate: Tensor, up: Tensor, activation: str = "silu", cut: Tile | None = None) -> Tensor:
    """`reference` by the Triton kernel, on a GPU or under Triton's interpreter."""
    check(gate, up, activation)
    made = torch.empty_like(gate, memory_format=torch.contiguous_format)
    if empty(gate):
        return made
    channels, at = gate.shape[-1], capability(gate)
    first, second = (_rows(item) for item in (gate, up))
    rows = first.shape[0]
    operands = (first, second, made, rows, channels, first.stride(0), second.stride(0))

    def go(cut: Tile) -> None:
        grid = (blocks(rows, cut.blocks["BLOCK_ROWS"]), blocks(channels, cut.blocks["BLOCK_CHANNELS"]))
        run(wrap_triton(kernel), grid, cut, *operands, ACTIVATION=number(activation))

    key = (NAME, at, gate.dtype, static(rows), channels, activation)
    go(cut or best(key, chosen(TILES, at, channels), [item for _, item in TILES[at]], go))
    return made


def _rows(value: Tensor) -> Tensor:
    """Rows whose numbers lie side by side; a view where memory allows."""
    value = value.reshape(-1, value.shape[-1])
    return value if value.stride(1) == 1 else value.contiguous()


@torch.library.triton_op(NAME, mutates_args=())
def glu(gate: Tensor, up: Tensor, activation: str = "silu") -> Tensor:
    """`reference`, by the Triton kernel on a GPU."""
    return launch(gate, up, activation) if on_gpu(gate) else reference(gate, up, activation)


@glu.register_fake
def _fake(gate: Tensor, up: Tensor, activation: str = "silu") -> Tensor:
    check(gate, up, activation)
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


def variants(at: int) -> Iterator[Variant]:
    """What it is compiled for ahead of time."""
    for dtype, activation, channels in (
        (torch.bfloat16, "silu", 14336), (torch.bfloat16, "gelu", 3072), (torch.float16, "gelu_tanh", 512),
        (torch.float32, "silu", 200),
    ):  # fmt: skip
        text = f"{activation}, {channels} channels, {str(dtype).removeprefix('torch.')}"
        operands = (dtype, dtype, dtype, 4096, channels, 2 * channels, 2 * channels)
        constants = {"ACTIVATION": number(activation)}
        yield Variant("glu", text, kernel, operands, constants, chosen(TILES, at, channels))
