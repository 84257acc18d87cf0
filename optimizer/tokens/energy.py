"""Energy-based merging: tokens in crowds merge, isolated ones stay (PiToMe, arXiv:2405.16148)."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.tokens.bipartite import joined
from tersor.tokens.matrix import gathered, normalized


def margin(layer: int, layers: int) -> float:
    """From which cosine on tokens count as neighbours: 0.9 at the first layer, falling to 0.

    >>> margin(0, 4), round(margin(2, 4), 2)
    (0.9, 0.45)
    """
    return 0.9 - 0.9 * layer / layers


def energy(metric: Tensor, edge: float) -> Tensor:
    """How crowded it is around each token, [B, T]: the mean over all others of f(cosine) (equation 4).

    ``f(x) = x`` where ``x >= edge``, else ``exp(x - edge) - 1``, the paper's alpha being 1.

    Args:
        metric: [B, T, D].
        edge: see `margin`.
    """
    unit = normalized(metric)
    cosine = unit @ unit.transpose(1, 2)
    return torch.where(cosine >= edge, cosine, (cosine - edge).exp() - 1).mean(-1)


def by_energy(
    metric: Tensor, count: int, first: int = 0, padding: Tensor | None = None, last: int = 0, edge: float = 0.9
) -> Tensor:
    """Parents [B, T] of tokens of which ``count`` are merged away.

    The 2 ``count`` tokens of highest energy are candidates. In order of energy, each at an even place goes into the
    most similar one at an odd place.

    Args:
        metric: [B, T, D].
        count: at most half of the tokens that are not protected.
        first, last: so many tokens in front and behind are no candidates.
        padding: [B, T] Boolean, candidates before all others.
        edge: see `margin`.
    """
    score = energy(metric, edge)
    if padding is not None:
        score = score.masked_fill(padding, torch.inf)
    place = torch.arange(metric.shape[1], device=metric.device)
    if first:
        score = score.masked_fill(place < first, -torch.inf)
    if last:
        score = score.masked_fill(place >= metric.shape[1] - last, -torch.inf)
    order = score.topk(2 * count, dim=1).indices
    source, target = order[:, ::2], order[:, 1::2]
    unit = normalized(metric)
    chosen = (gathered(unit, source) @ gathered(unit, target).transpose(1, 2)).max(-1).indices
    return joined(metric, source, target.gather(1, chosen))
