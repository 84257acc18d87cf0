"""The methods by name: which tokens merge, or which stay."""

from __future__ import annotations

from torch import Tensor

from tersor.tokens.attention import page_rank, received
from tersor.tokens.bipartite import bipartite
from tersor.tokens.criteria import by_criteria
from tersor.tokens.energy import by_energy, margin
from tersor.tokens.grid import by_cell, corners
from tersor.tokens.prune import best, diverse, protected
from tersor.tokens.step import Given, Method

ATTENTIVE = 0.7
"""Of the tokens that stay, so many are kept by their own worth, the others stand for groups (arXiv:2211.11315)."""


def _bipartite(given: Given) -> Tensor:
    return bipartite(given.metric, given.count, given.first, given.padding, given.last)


def _energy(given: Given) -> Tensor:
    edge = margin(round(given.depth * 100), 100)
    return by_energy(given.metric, given.count, given.first, given.padding, given.last, edge)


def _criteria(given: Given) -> Tensor:
    attention = received(given.weights)
    return by_criteria(given.metric, attention, given.sizes, given.count, given.first, given.padding, given.last)


def _grid(given: Given) -> Tensor:
    tokens = given.x.shape[1]
    rows, columns = given.grid or (1, tokens - given.first - given.last)
    going, staying = corners(rows, columns, given.first)
    return by_cell(given.metric, given.count, going, staying)


def _worth(given: Given, score: Tensor) -> Tensor:
    """Scores with protected tokens on top; those behind come after those in front."""
    score = protected(score, given.first, given.padding)
    if given.last:
        score = protected(score.flip(1), given.last).flip(1)
    return score


def _class(given: Given) -> tuple[Tensor, Tensor]:
    score = given.weights[:, :, 0].mean(1)
    return score, best(_worth(given, score), given.left - 1)


def _one_row(given: Given) -> Tensor:
    return best(_worth(given, given.weights[:, :, 0].mean(1)), given.left)


def _received(given: Given) -> Tensor:
    return best(_worth(given, received(given.weights)), given.left)


def _page_rank(given: Given) -> Tensor:
    return best(_worth(given, page_rank(given.weights)), given.left)


def _diverse(given: Given) -> Tensor:
    free = given.left - given.first
    centres = max(1, round((1 - ATTENTIVE) * free)) if isinstance(free, int) else free // 4 + 1
    score = _worth(given, given.weights[:, :, 0].mean(1))
    return diverse(score, given.metric, given.left - centres, centres)


MERGE: dict[str, Method] = {
    "bipartite": Method("merge", "keys", _bipartite, sets=True),
    "energy": Method("merge", "keys", _energy),
    "criteria": Method("merge", "all", _criteria, lambda given: received(given.weights)),
    "grid": Method("merge", "keys", _grid, limit="cell"),
}
"""ToMe, PiToMe, MCTF, ToMeSD."""

PRUNE: dict[str, Method] = {
    "class": Method("fuse", "class", _class, limit="all"),
    "class-only": Method("prune", "class", _one_row, limit="all"),
    "last": Method("prune", "last", _one_row, limit="all"),
    "received": Method("prune", "all", _received, limit="all"),
    "page-rank": Method("prune", "all", _page_rank, limit="all"),
    "diverse": Method("merge", "class", _diverse, limit="all"),
}
"""EViT with and without the fused token, FastV, LTP's score, Zero-TPrune's, token decoupling and merging."""
