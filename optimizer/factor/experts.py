"""A feed-forward block as experts with a router (MoEfication, Zhang et al., arXiv:2110.01786)."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.factor.monarch import balanced
from tersor.factor.observe import Moments


def similarity(hidden: Moments) -> Tensor:
    """(units, units) squared correlation of hidden units: high where two are strong for the same inputs."""
    covariance = hidden.covariance
    spread = covariance.diagonal().clamp(min=1e-300).rsqrt()
    return (covariance * spread[:, None] * spread).square()


def cluster(alike: Tensor, experts: int, sweeps: int = 10, seed: int = 0) -> Tensor:
    """Equal clusters of units that are alike: balanced k-means in the feature space of a kernel.

    Args:
        alike: (units, units) symmetric positive semidefinite; units is a multiple of ``experts``.
        experts: how many clusters.
        sweeps: of reassignment, from each of several random starts.
        seed: of the starts.

    Returns:
        (units,) the cluster of each unit.

    >>> cluster(torch.eye(2, dtype=torch.float64).repeat(2, 2), 2).unique(return_counts=True)[1].tolist()
    [2, 2]
    """
    generator = torch.Generator().manual_seed(seed)
    size = len(alike) // experts
    best: tuple[float, Tensor] | None = None
    for _ in range(4):
        parts = torch.randperm(len(alike), generator=generator) % experts
        for _ in range(sweeps):
            members = torch.nn.functional.one_hot(parts, experts).to(alike.dtype)
            near = alike @ members / size
            within = (near * members).sum(0) / size
            moved = balanced(near - within / 2)
            if torch.equal(moved, parts):
                break
            parts = moved
        inside = float(alike[parts[:, None] == parts[None]].sum())
        if best is None or inside > best[0]:
            best = inside, parts
    assert best is not None
    return best[1]


def contributions(hidden: Tensor, mean: Tensor, weight: Tensor, parts: Tensor) -> Tensor:
    """How far each expert moves the block's output away from what it gives on average.

    Args:
        hidden: (..., units) values of the hidden units.
        mean: (units,) their average.
        weight: (out, units) of the layer behind them.
        parts: (units,) the expert of each.

    Returns:
        (..., experts) lengths.
    """
    gap, weight = hidden - mean.to(hidden.dtype), weight.to(hidden.dtype)
    experts = int(parts.max()) + 1
    lengths = [(gap[..., parts == e] @ weight[:, parts == e].T).norm(dim=-1) for e in range(experts)]
    return torch.stack(lengths, -1)


def chosen(scores: Tensor, capacity: int) -> Tensor:
    """Each expert takes the tokens of a sample that score highest for it (expert choice, arXiv:2202.09368).

    Args:
        scores: (batch, tokens, experts).
        capacity: tokens per expert and sample.

    Returns:
        (batch, tokens, experts) 1 where a token is taken, else 0.

    >>> chosen(torch.tensor([[[1.0], [3.0], [2.0]]]), 2)[0, :, 0].tolist()
    [0.0, 1.0, 1.0]
    """
    return torch.zeros_like(scores).scatter(1, scores.topk(capacity, dim=1).indices, 1.0)


def capacity(tokens: int, sixteenths: int) -> int:
    """Tokens per expert: a share in sixteenths, rounded up, so that it can be computed from a size in the graph.

    >>> capacity(17, 8)
    9
    """
    return (tokens * sixteenths + 15) // 16
