"""Tokens that stay, and what becomes of the others: dropped, fused into one, or clustered."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.tokens.bipartite import joined
from tersor.tokens.matrix import gathered, normalized


def protected(score: Tensor, first: int, padding: Tensor | None = None) -> Tensor:
    """Scores [B, T] with the ``first`` tokens above all others, and padding below."""
    if padding is not None:
        score = score.masked_fill(padding, -torch.inf)
    place = torch.arange(score.shape[1], device=score.device)
    return score.masked_fill(place < first, torch.inf) if first else score


def best(score: Tensor, count: int) -> Tensor:
    """The ``count`` highest scored positions [B, K] in order.

    >>> best(torch.tensor([[0.1, 0.4, 0.2, 0.3]]), 2).tolist()
    [[1, 3]]
    """
    return score.topk(count, dim=1).indices.sort(dim=1).values


def fused(score: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """(places [B, T], weights [B, T]) that put all but ``kept`` [B, K] into one more token behind them.

    Its features are their average weighted by ``score`` [B, T] (EViT, arXiv:2202.07800, equation 4, whose weights are
    divided by their sum here, so that the token has the size of the others without fine-tuning).

    >>> fused(torch.tensor([[0.5, 0.2, 0.3]]), torch.tensor([[0]]))[0].tolist()
    [[0, 1, 1]]
    """
    count = kept.shape[1]
    new = torch.arange(count, device=kept.device).expand(kept.shape[0], count)
    place = torch.full_like(score, count, dtype=torch.long).scatter(1, kept, new)
    return place, torch.where(place < count, torch.ones_like(score), score.clamp(min=1e-6))


def diverse(score: Tensor, metric: Tensor, attentive: int, count: int, neighbours: int = 5) -> Tensor:
    """Parents [B, T]: attentive tokens stay, the others gather around some of them that are unlike each other.

    ``attentive`` tokens are kept by ``score`` [B, T]; of the rest ``count`` become centres, those that are both in
    dense regions and far from denser ones (density peaks over the ``neighbours`` nearest); each other one goes to the
    nearest centre (token decoupling and merging, arXiv:2211.11315, section 3.3).

    Args:
        metric: [B, T, D].
    """
    tokens = metric.shape[1]
    order = score.argsort(dim=1, descending=True)
    rest = order[:, attentive:]
    points = gathered(normalized(metric), rest)
    distance = (2 - 2 * points @ points.transpose(1, 2)).clamp(min=0)
    near = distance.topk(min(neighbours, tokens - attentive), dim=-1, largest=False).values
    density = (-near.mean(-1)).exp()
    farther = torch.where(density[:, None, :] > density[:, :, None], distance, distance.amax((1, 2), keepdim=True))
    centre = (density * farther.amin(-1)).topk(count, dim=1).indices
    to_centre = gathered(distance, centre)
    goal = rest.gather(1, centre.gather(1, to_centre.min(1).indices))
    goal = goal.scatter(1, centre, rest.gather(1, centre))
    return joined(metric, rest, goal)
