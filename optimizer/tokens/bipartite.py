"""Bipartite soft matching: tokens merged in pairs of most similar ones (ToMe, arXiv:2210.09461)."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.tokens.matrix import normalized

FREE = 2.0
"""Above any cosine: what costs nothing to merge goes first."""


def bipartite(metric: Tensor, count: int, first: int = 0, padding: Tensor | None = None, last: int = 0) -> Tensor:
    """Parents [B, T] of tokens of which ``count`` are merged away.

    Tokens at even places each choose the most similar one at an odd place; the ``count`` most similar pairs merge.

    Args:
        metric: [B, T, D] what similarity is measured on: keys averaged over heads.
        count: at most half of the tokens that are not protected.
        first, last: so many tokens in front and behind are merged with nothing.
        padding: [B, T] Boolean, tokens that may go into any other, and before all others.

    >>> metric = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.5]]])
    >>> bipartite(metric, 1).tolist()
    [[1, 1, 2, 3]]
    """
    scores = similarities(metric, first, padding, last)
    best = scores.max(-1)
    source = best.values.topk(count, dim=1).indices
    return joined(metric, source * 2, best.indices.gather(1, source) * 2 + 1)


def joined(like: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Parents [B, T] where the tokens ``source`` [B, R] go into ``target`` [B, R]."""
    own = torch.arange(like.shape[1], device=like.device).expand(like.shape[0], like.shape[1])
    return own.scatter(1, source, target)


def similarities(metric: Tensor, first: int, padding: Tensor | None, last: int = 0) -> Tensor:
    """Cosines [B, even, odd] between tokens at even and odd places; what must not merge is minus infinity."""
    unit = normalized(metric)
    even, odd = unit[:, ::2], unit[:, 1::2]
    scores = even @ odd.transpose(1, 2)
    if padding is not None:
        away, into = padding[:, ::2, None], padding[:, None, 1::2]
        scores = scores.masked_fill(into, -FREE).masked_fill(away, FREE)
    return forbidden(scores, first, last)


def forbidden(scores: Tensor, first: int, last: int = 0) -> Tensor:
    """Scores [B, even, odd] with protected tokens at minus infinity.

    Where the number of tokens is symbolic, another column stands for no token, so that a single one can choose.
    """
    _, rows, columns = scores.shape
    if last:
        end = rows + columns - last
        scores = scores.masked_fill(torch.arange(columns, device=scores.device) * 2 + 1 >= end, -torch.inf)
        scores = scores.masked_fill(torch.arange(rows, device=scores.device)[:, None] * 2 >= end, -torch.inf)
    if first > 1:
        scores = scores.masked_fill(torch.arange(columns, device=scores.device) < first // 2, -torch.inf)
    if first:
        row = torch.arange(rows, device=scores.device)[:, None] < (first + 1) // 2
        scores = scores.masked_fill(row, -torch.inf)
    if isinstance(columns, int):
        return scores
    return torch.cat([scores, torch.full_like(scores[:, :, :1], -torch.inf)], dim=2)
