"""Multi-criteria fusion: similar, uninformative, small tokens merge (MCTF, arXiv:2403.10030)."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.tokens.bipartite import FREE, forbidden, joined
from tersor.tokens.matrix import normalized

INFORMATION, SIZE = 1 / 20, 1 / 40
"""Exponents of the criteria beside similarity, whose own is 1 (the paper's section 4)."""


def attraction(metric: Tensor, attention: Tensor, size: Tensor) -> Tensor:
    """How readily two tokens fuse, [B, T, T]: the product of three criteria (equations 4 to 7).

    Similarity ``(cosine + 1) / 2``, information ``1 / (a_i a_j)`` and size ``1 / (s_i s_j)``, to powers.

    Args:
        metric: [B, T, D].
        attention: [B, T] mean attention that each token receives.
        size: [B, T].
    """
    unit = normalized(metric)
    alike = (unit @ unit.transpose(1, 2) + 1) / 2
    plain = attention.clamp(min=1e-6) ** -INFORMATION * size.clamp(min=1) ** -SIZE
    return alike * plain[:, :, None] * plain[:, None, :]


def by_criteria(
    metric: Tensor, attention: Tensor, size: Tensor, count: int, first: int = 0, padding: Tensor | None = None,
    last: int = 0,
) -> Tensor:  # fmt: skip
    """Parents [B, T] of tokens of which ``count`` are merged away, in both directions.

    Half of them go from even into odd places, the others from odd into even ones that are still there (bidirectional
    bipartite soft matching).

    Args:
        metric, attention, size: see `attraction`.
        count: at most half of the tokens that are not protected.
        first, last: so many tokens in front and behind are merged with nothing.
        padding: [B, T] Boolean, tokens that may go into any other, and before all others.
    """
    scores = attraction(metric, attention, size)[:, ::2, 1::2]
    if padding is not None:
        away, into = padding[:, ::2, None], padding[:, None, 1::2]
        scores = scores.masked_fill(into, -FREE).masked_fill(away, FREE * FREE)
    scores = forbidden(scores, first, last)
    forth = count - count // 2
    best = scores.max(-1)
    source = best.values.topk(forth, dim=1).indices
    parent = joined(metric, source * 2, best.indices.gather(1, source) * 2 + 1)
    gone = torch.zeros_like(best.values).scatter(1, source, 1.0)
    back = scores.masked_fill(gone[:, :, None] > 0, -torch.inf)[:, :, : metric.shape[1] // 2].max(1)
    source = back.values.topk(count // 2, dim=1).indices
    parent = parent.scatter(1, source * 2 + 1, back.indices.gather(1, source) * 2)
    return parent.gather(1, parent)
