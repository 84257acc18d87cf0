"""Sequences cut into blocks, and blocks taken from them: what every block-wise attention is made of."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def hidden(dtype: torch.dtype) -> float:
    """What is added to a score that nobody may see: finite, so that a row without anything to see is no NaN.

    A quarter of the lowest number, so that two of them do not overflow.

    >>> hidden(torch.float16)
    -16376.0
    """
    return float(torch.finfo(dtype).min) / 4


def count_of(length: int, block: int) -> int:
    """Blocks that hold a sequence; of numbers and of sizes that differ from call to call.

    >>> count_of(5, 4)
    2
    """
    return (length + block - 1) // block


def whole(length: int, block: int) -> int:
    """The length rounded up to whole blocks.

    >>> whole(5, 4)
    8
    """
    return count_of(length, block) * block


def padded(x: Tensor, before: int, after: int, value: float = 0.0) -> Tensor:
    """Positions in front of and behind axis 2 of [B, H, L, E]."""
    if isinstance(before, int) and isinstance(after, int) and before == after == 0:
        return x
    return F.pad(x, (0, 0, before, after), value=value)


def repeated(x: Tensor, heads: int) -> Tensor:
    """Keys or values [B, shared, S, E] for each of the query heads that share them: [B, heads, S, E].

    >>> repeated(torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1), 4).flatten().tolist()
    [1.0, 1.0, 2.0, 2.0]
    """
    groups = heads // x.shape[1]
    return x if groups == 1 else x[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)


def cut(x: Tensor, block: int, value: float = 0.0) -> Tensor:
    """[B, H, L, E] as [B, H, blocks, block, E], the last block filled up."""
    length = x.shape[2]
    x = padded(x, 0, whole(length, block) - length, value)
    # Written out, since a size of -1 would have to be divided, which says less where it differs from call to call.
    return x.reshape(x.shape[0], x.shape[1], count_of(length, block), block, x.shape[3])


def means(x: Tensor, block: int) -> Tensor:
    """The mean of each block of [B, H, L, E], filled up with zeros: [B, H, blocks, E]."""
    return cut(x, block).mean(3)


def take(blocks: Tensor, index: Tensor) -> Tensor:
    """Blocks by their number, for each head its own, in one lookup of whole rows.

    Args:
        blocks: [B or 1, H or fewer, N, w]; heads that share blocks follow each other.
        index: [B or 1, H, n, m] int64.

    Returns:
        [B or 1, H, n, m, w].

    >>> rows = torch.arange(6.0).reshape(1, 2, 3, 1)
    >>> take(rows, torch.tensor([[[[2, 0]], [[1, 1]]]])).flatten().tolist()
    [2.0, 0.0, 4.0, 4.0]
    """
    batch, shared, count, width = blocks.shape
    many, heads, rows, kept = index.shape
    start = torch.arange(heads, device=index.device)[:, None, None] // (heads // shared) * count
    if many == 1:
        flat = (index[0] + start).flatten()
        return blocks.flatten(1, 2).index_select(1, flat).reshape(batch, heads, rows, kept, width)
    if batch != 1:
        start = start + torch.arange(batch, device=index.device)[:, None, None, None] * (shared * count)
    flat = (index + start).flatten()
    return blocks.flatten(0, 2).index_select(0, flat).reshape(many, heads, rows, kept, width)
