"""`tersor::rotary`: rotary position embedding of queries or keys, by tables of cosines and sines.

Su et al., RoFormer (arXiv:2104.09864). Pairs are the two halves of a head (Llama, GPT-NeoX), or neighbours.
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

NAME = "tersor::rotary"

TILES: Table = {
    at: [(64, tile(4, 1, BLOCK_ROWS=32)), (128, tile(4, 1, BLOCK_ROWS=16)), (1 << 30, tile(4, 1, BLOCK_ROWS=4))]
    for at in (80, 90)
}
"""By head size."""


def reference(x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool = False) -> Tensor:
    """Each pair of numbers turned by its angle, in float32, rounded once.

    Args:
        x: ``[batch, heads, tokens, size]``, float32, float16 or bfloat16.
        cos, sin: ``[1 or batch, tokens, pairs]``, float32 or the dtype of x; numbers of a head behind the first
            ``2 * pairs`` stay as they are.
        neighbours: pairs are numbers 2 i and 2 i + 1; otherwise i and pairs + i.

    Returns:
        ``[batch, heads, tokens, size]``, contiguous.

    Raises:
        UsageError: shapes or dtypes do not belong together.

    >>> reference(torch.tensor([[[[1.0, 2.0]]]]), torch.zeros(1, 1, 1), torch.ones(1, 1, 1)).flatten().tolist()
    [-2.0, 1.0]
    """
    check(x, cos, sin)
    pairs, value = cos.shape[-1], x.float()
    turned, rest = value[..., : 2 * pairs], value[..., 2 * pairs :]
    parts = turned.unflatten(-1, (pairs, 2)).unbind(-1) if neighbours else turned.chunk(2, -1)
    c, s = cos.float()[:, None], sin.float()[:, None]
    made = (parts[0] * c - parts[1] * s, parts[1] * c + parts[0] * s)
    both = torch.stack(made, -1).flatten(-2) if neighbours else torch.cat(made, -1)
    return torch.cat([both, rest], -1).to(x.dtype).contiguous()


def check(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Raise UsageError unless the operands of `reference` belong together."""
    dtype = check_floats(x=x)
    check_shape("sin", sin, cos.shape)
    if x.dim() != 4 or cos.dim() != 3 or cos.shape[1] != x.shape[2] or cos.shape[0] not in (1, x.shape[0]):
        raise UsageError(
            f"x of shape {tuple(x.shape)} and cos of shape {tuple(cos.shape)}",
            "[batch, heads, tokens, size] and [1 or batch, tokens, pairs]",
        )
    if cos.shape[-1] < 1 or 2 * cos.shape[-1] > x.shape[-1]:
        raise UsageError(f"{cos.shape[-1]} pairs in heads of {x.shape[-1]}", "1 pair to half of the head size")
    if cos.dtype not in (dtype, torch.float32) or sin.dtype != cos.dtype:
        raise UsageError(f"cos of {cos.dtype} and sin of {sin.dtype} for x of {dtype}", "float32 or the dtype of x")


def work(batch: int, heads: int, tokens: int, size: int, dtype: torch.dtype) -> Work:
    """Operations, three for each number, and bytes of one call with tables in the same dtype.

    >>> work(1, 8, 16, 64, torch.float16).bytes
    34816
    """
    count = batch * heads * tokens * size
    return Work(3.0 * count, (2 * count + tokens * size) * dtype.itemsize)


@jit
def kernel(  # type: ignore[no-untyped-def]
    x, cos, sin, made, heads, tokens, size, pairs, xb, xh, xt, cos_batch,
    NEIGHBOURS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PAIRS: tl.constexpr, BLOCK_REST: tl.constexpr,
):  # fmt: skip
    """A block of tokens of one head; cos and sin contiguous but for their batch, and numbers of a head side by side."""
    count = tl.cdiv(tokens, BLOCK_ROWS)
    own = tl.program_id(0) // count
    batch, head = (own // heads).to(tl.int64), (own % heads).to(tl.int64)
    token, pair = tl.program_id(0) % count * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_PAIRS)
    inside = (token[:, None] < tokens) & (pair[None, :] < pairs)
    angle = batch * cos_batch + token[:, None].to(tl.int64) * pairs + pair[None, :]
    c = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
    x_at = x + batch * xb + head * xh + token[:, None].to(tl.int64) * xt
    made_at = made + ((batch * heads + head) * tokens + token[:, None]) * size
    first, second = pair[None, :], pair[None, :] + pairs
    if NEIGHBOURS:
        first, second = 2 * pair[None, :], 2 * pair[None, :] + 1
    a = tl.load(x_at + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x_at + second, mask=inside, other=0.0).to(tl.float32)
    tl.store(made_at + first, (a * c - b * s).to(made.dtype.element_ty), mask=inside)
    tl.store(made_at + second, (b * c + a * s).to(made.dtype.element_ty), mask=inside)
    if BLOCK_REST > 0:
        rest = 2 * pairs + tl.arange(0, BLOCK_REST)
        there = (token[:, None] < tokens) & (rest[None, :] < size)
        tl.store(made_at + rest[None, :], tl.load(x_at + rest[None, :], mask=there, other=0.0), mask=there)


def launch(x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool = False, cut: Tile | None = None) -> Tensor:
    """`reference` by the Triton kernel, on a GPU or under Triton's interpreter."""
    check(x, cos, sin)
    made = torch.empty_like(x, memory_format=torch.contiguous_format)
    if empty(x):
        return made
    x = x if x.stride(-1) == 1 else x.contiguous()
    batch, heads, tokens, size = x.shape
    pairs, at = cos.shape[-1], capability(x)
    table = (cos.contiguous(), sin.contiguous())
    shared = 0 if cos.shape[0] == 1 else tokens * pairs
    operands = (x, *table, made, heads, tokens, size, pairs, *x.stride()[:3], shared)
    constants = _constants(size, pairs, neighbours)

    def go(cut: Tile) -> None:
        grid = (blocks(tokens, cut.blocks["BLOCK_ROWS"]) * batch * heads,)
        run(wrap_triton(kernel), grid, cut, *operands, **constants)

    key = (NAME, at, x.dtype, static(tokens), size, pairs, neighbours)
    go(cut or best(key, chosen(TILES, at, size), [item for _, item in TILES[at]], go))
    return made


def _constants(size: int, pairs: int, neighbours: bool) -> dict[str, object]:
    rest = size - 2 * pairs
    return {"NEIGHBOURS": neighbours, "BLOCK_PAIRS": power(pairs), "BLOCK_REST": power(rest) if rest else 0}


@torch.library.triton_op(NAME, mutates_args=())
def rotary(x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool = False) -> Tensor:
    """`reference`, by the Triton kernel on a GPU."""
    return launch(x, cos, sin, neighbours) if on_gpu(x) else reference(x, cos, sin, neighbours)


@rotary.register_fake
def _fake(x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool = False) -> Tensor:
    check(x, cos, sin)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def variants(at: int) -> Iterator[Variant]:
    """What it is compiled for ahead of time."""
    for dtype, size, pairs, neighbours in (
        (torch.bfloat16, 128, 64, False), (torch.bfloat16, 64, 32, True), (torch.float16, 80, 16, False),
    ):  # fmt: skip
        text = f"head {size}, {pairs} pairs, {str(dtype).removeprefix('torch.')}" + ", neighbours" * neighbours
        strides: list[Operand] = [4096 * 16 * size, size, 16 * size, 0]
        operands = (dtype, torch.float32, torch.float32, dtype, 16, 4096, size, pairs, *strides)
        constants = _constants(size, pairs, neighbours)
        yield Variant("rotary", text, kernel, operands, constants, chosen(TILES, at, size))
