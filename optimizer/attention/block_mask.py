"""Block-sparse masks found offline: which blocks of keys hold the attention of each head, on calibration data."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from tersor.attention.blocks import cut, hidden, repeated, whole
from tersor.attention.gathered import gathered_attention


def block_mass(
    query: Tensor, key: Tensor, bias: Tensor | None = None, *, rows: int, block: int, causal: bool = False,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Share of the attention of each block of queries that each block of keys gets, averaged over the batch.

    Shapes: query [B, H, L, E], key [B, H or fewer, S, E], bias [B or 1, 1, 1, S]; result [H, L / rows, S / block], each
    row of which sums to one. One block of queries is computed at a time.

    >>> x = torch.randn(2, 3, 8, 4)
    >>> block_mass(x, x, rows=4, block=2).sum(-1).allclose(torch.ones(3, 2))
    True
    """
    key = repeated(key, query.shape[1])
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    place, found = torch.arange(key.shape[2], device=query.device), []
    for start in range(0, query.shape[2], rows):
        part = query[:, :, start : start + rows]
        scores = part @ key.mT * scale
        scores = scores if bias is None else scores + bias
        if causal:
            row = torch.arange(start, start + part.shape[2], device=query.device)
            scores = scores.masked_fill(place[None] > row[:, None], hidden(scores.dtype))
        weights = scores.softmax(-1).mean((0, 2))
        found.append(cut(weights[None, :, :, None], block).sum((0, 3))[..., 0])
    return torch.stack(found, 1)


def choose_blocks(mass: Tensor, keep: int, *, rows: int, block: int, causal: bool = False) -> Tensor:
    """The ``keep`` blocks of keys with the largest mass for each head and block of queries, [1, H, n, keep].

    Where it is causal, of those that lie before all queries of the block; where there are fewer, the number of blocks
    stands for none. Masks that depend on the head and not on the input, as in BlindSight (arXiv:2507.09071) and
    MInference (arXiv:2407.02490).

    >>> choose_blocks(torch.tensor([[[0.1, 0.6, 0.3]]]), 2, rows=4, block=4).tolist()
    [[[[1, 2]]]]
    """
    count = mass.shape[-1]
    if causal:
        ends = (torch.arange(count) + 1) * block
        past = ends[None] <= torch.arange(mass.shape[1])[:, None] * rows
        mass = torch.where(past, mass, -1.0)
    best = mass.topk(min(keep, count), -1)
    index = torch.where(best.values < 0, count, best.indices)
    return index.sort(-1).values[None]


def average_mass(parts: Iterable[Tensor]) -> Tensor:
    """The mean of masses of several inputs."""
    return torch.stack(list(parts)).mean(0)


def head_class(mass: Tensor, *, share: float = 0.8) -> str:
    """What a head's blocks are, in the categories of BlindSight and DiTFastAttn (arXiv:2406.08552).

    Args:
        mass: [n, n] of one head, blocks of queries and of keys of equal size.
        share: of the attention that makes it one class.

    Returns:
        "sink" where the first block gets it, "local" where the blocks around the diagonal do, "sink and local" where
        both do together, else "global".

    >>> head_class(torch.eye(4)), head_class(torch.full((4, 4), 0.25))
    ('local', 'global')
    """
    rows, columns = mass.shape
    near = (torch.arange(rows)[:, None] - torch.arange(columns)[None]).abs() <= 1
    local = float((mass * near).sum() / rows)
    sink = float(mass[:, 0].sum() / rows)
    both = float((mass * near).sum() + mass[2:, 0].sum()) / rows
    if sink >= share:
        return "sink"
    if local >= share:
        return "local"
    return "sink and local" if both >= share else "global"


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, *, index: Tensor, rows: int, block: int,
    causal: bool = False, scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Attention over the blocks of a fixed mask; ``index`` [H, n, keep] as `choose_blocks` makes it, without batch."""
    own = (key, value, bias) if causal else None
    return gathered_attention(query, key, value, index[None], bias, rows=rows, block=block, own=own, scale=scale)


def as_mask(index: Tensor, length: int, seen: int, *, rows: int, block: int, causal: bool = False) -> Tensor:
    """The same mask as a Boolean one, [1, H, L, S]: what a kernel that skips blocks is given.

    >>> as_mask(torch.tensor([[[0], [1]]]), 4, 4, rows=2, block=2)[0, 0].int().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    """
    heads, count, _ = index.shape
    blocks = whole(seen, block) // block
    chosen = torch.zeros(heads, count, blocks + 1, dtype=torch.bool).scatter(2, index.cpu(), True)[..., :blocks]
    mask = chosen.repeat_interleave(rows, 1)[:, :length].repeat_interleave(block, 2)[..., :seen]
    if causal:
        place = torch.arange(length)
        own = (place[:, None] // rows == torch.arange(seen)[None] // rows) & (
            torch.arange(seen)[None] <= place[:, None]
        )
        mask = mask | own
    return mask[None]
