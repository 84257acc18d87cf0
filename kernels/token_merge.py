"""`tersor::token_merge`: tokens replaced by weighted means of those that they stand for, in one pass.

The merging of Bolya et al., ToMe (arXiv:2210.09461). Each result gathers its own tokens in a fixed order, so that sums
do not depend on how threads race, as they do where tokens are scattered.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tersor.cost.roofline import Work
from tersor.errors import UsageError
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

NAME = "tersor::token_merge"

TILES: Table = {
    at: [
        (256, tile(2, 1, BLOCK_MERGED=16, BLOCK_CHANNELS=256)),
        (1 << 30, tile(4, 1, BLOCK_MERGED=16, BLOCK_CHANNELS=512)),
    ]
    for at in (80, 90)
}
"""By channels."""


def reference(x: Tensor, size: Tensor, kept: Tensor, merged: Tensor, into: Tensor) -> tuple[Tensor, Tensor]:
    """Means, weighted by size, of each kept token and those that join it, in float32, rounded once.

    Args:
        x: ``[batch, tokens, channels]``, float32, float16 or bfloat16.
        size: ``[batch, tokens]``, how many tokens each stands for; a floating dtype.
        kept: int64 ``[batch, M]``, the tokens that stay, in the order of the result.
        merged: int64 ``[batch, R]``, the tokens that go.
        into: int64 ``[batch, R]``, which of the M each joins.

    Returns:
        ``[batch, M, channels]``, and the sizes ``[batch, M]`` in the dtype of ``size``.

    Raises:
        UsageError: shapes or dtypes do not belong together.

    >>> index = lambda *items: torch.tensor([items])
    >>> x = torch.tensor([[[1.0], [5.0], [3.0]]])
    >>> [item.flatten().tolist() for item in reference(x, torch.ones(1, 3), index(0, 1), index(2), index(0))]
    [[2.0, 5.0], [2.0, 1.0]]
    """
    check(x, size, kept, merged, into)
    weight = size.float()
    heavy = x.float() * weight[..., None]
    total = weight.gather(1, kept).scatter_add(1, into, weight.gather(1, merged))
    spread = (-1, -1, x.shape[2])
    made = heavy.gather(1, kept[..., None].expand(spread))
    made = made.scatter_add(1, into[..., None].expand(spread), heavy.gather(1, merged[..., None].expand(spread)))
    return (made / total[..., None]).to(x.dtype), total.to(size.dtype)


def check(x: Tensor, size: Tensor, kept: Tensor, merged: Tensor, into: Tensor) -> None:
    """Raise UsageError unless the operands of `reference` belong together."""
    check_floats(x=x)
    if x.dim() != 3 or kept.dim() != 2 or merged.dim() != 2:
        raise UsageError(f"{x.dim()}, {kept.dim()} and {merged.dim()} dimensions", "3 of x, 2 of indices")
    check_shape("size", size, x.shape[:2])
    check_shape("kept", kept, (x.shape[0], kept.shape[1]))
    check_shape("merged", merged, (x.shape[0], merged.shape[1]))
    check_shape("into", into, merged.shape)
    if not size.is_floating_point() or {kept.dtype, merged.dtype, into.dtype} != {torch.int64}:
        found = f"size of {size.dtype}, indices of {kept.dtype}, {merged.dtype} and {into.dtype}"
        raise UsageError(found, "a float and int64")
    if kept.shape[1] < 1 and merged.shape[1] > 0:
        raise UsageError("tokens are merged but none is kept", "keep at least one")


def work(batch: int, kept: int, merged: int, channels: int, dtype: torch.dtype) -> Work:
    """Operations, a product and a sum for each number read, and bytes of one call with float32 sizes.

    >>> work(1, 90, 10, 64, torch.float16).operations
    12800.0
    """
    count = kept + merged
    moved = batch * ((count + kept) * channels * dtype.itemsize + 4 * (count + kept) + 8 * (kept + 2 * merged))
    return Work(2.0 * batch * count * channels, moved)


@jit
def kernel(  # type: ignore[no-untyped-def]
    x, size, kept, merged, into, made, made_size, tokens, channels, count, gone,
    BLOCK_MERGED: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """A part of the channels of one token of the result; all operands contiguous."""
    place, batch = tl.program_id(0) % count, (tl.program_id(0) // count).to(tl.int64)
    column, part = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS), tl.arange(0, BLOCK_MERGED)
    own = batch * tokens + tl.load(kept + batch * count + place)
    total = tl.load(size + own).to(tl.float32)
    value = total * tl.load(x + own * channels + column, mask=column < channels, other=0.0).to(tl.float32)
    for start in range(0, gone, BLOCK_MERGED):
        there = part < gone - start
        joins = there & (tl.load(into + batch * gone + start + part, mask=there, other=-1) == place)
        if tl.sum(joins.to(tl.int32), 0) > 0:
            row = batch * tokens + tl.load(merged + batch * gone + start + part, mask=joins, other=0)
            weight = tl.load(size + row, mask=joins, other=0.0).to(tl.float32)
            other = tl.load(
                x + row[:, None] * channels + column[None, :],
                mask=joins[:, None] & (column[None, :] < channels), other=0.0,
            )  # fmt: skip
            value += tl.sum(weight[:, None] * other.to(tl.float32), 0)
            total += tl.sum(weight, 0)
    made_at = batch * count + place
    tl.store(made + made_at * channels + column, (value / total).to(made.dtype.element_ty), mask=column < channels)
    if tl.program_id(1) == 0:
        tl.store(made_size + made_at, total.to(made_size.dtype.element_ty))


def launch(
    x: Tensor, size: Tensor, kept: Tensor, merged: Tensor, into: Tensor, cut: Tile | None = None
) -> tuple[Tensor, Tensor]:
    """`reference` by the Triton kernel, on a GPU or under Triton's interpreter."""
    check(x, size, kept, merged, into)
    made, made_size = x.new_empty(x.shape[0], kept.shape[1], x.shape[2]), size.new_empty(kept.shape)
    if empty(made_size):
        return made, made_size
    channels, count, at = x.shape[2], kept.shape[1], capability(x)
    given = (item.contiguous() for item in (x, size, kept, merged, into))
    operands = (*given, made, made_size, x.shape[1], channels, count, merged.shape[1])

    def go(cut: Tile) -> None:
        grid = (count * x.shape[0], blocks(max(channels, 1), cut.blocks["BLOCK_CHANNELS"]))
        run(wrap_triton(kernel), grid, cut, *operands)

    key = (NAME, at, x.dtype, static(count), channels, static(merged.shape[1]))
    go(cut or best(key, chosen(TILES, at, channels), [item for _, item in TILES[at]], go))
    return made, made_size


@torch.library.triton_op(NAME, mutates_args=())
def token_merge(x: Tensor, size: Tensor, kept: Tensor, merged: Tensor, into: Tensor) -> tuple[Tensor, Tensor]:
    """`reference`, by the Triton kernel on a GPU."""
    return launch(x, size, kept, merged, into) if on_gpu(x) else reference(x, size, kept, merged, into)


@token_merge.register_fake
def _fake(x: Tensor, size: Tensor, kept: Tensor, merged: Tensor, into: Tensor) -> tuple[Tensor, Tensor]:
    check(x, size, kept, merged, into)
    return x.new_empty(x.shape[0], kept.shape[1], x.shape[2]), size.new_empty(kept.shape)


def variants(at: int) -> Iterator[Variant]:
    """What it is compiled for ahead of time."""
    for dtype, kept, gone, channels in (
        (torch.bfloat16, 181, 16, 768), (torch.float16, 2048, 2048, 320), (torch.float32, 181, 16, 192),
    ):  # fmt: skip
        text = f"{kept + gone} to {kept} tokens, {channels} channels, {str(dtype).removeprefix('torch.')}"
        index = torch.int64
        operands = (dtype, torch.float32, index, index, index, dtype, torch.float32, kept + gone, channels, kept, gone)
        yield Variant("token_merge", text, kernel, operands, {}, chosen(TILES, at, channels))
