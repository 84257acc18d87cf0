"""Tokens merged into one of each cell of their grid, and put back together (ToMeSD, arXiv:2303.17604)."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.tokens.bipartite import joined
from tersor.tokens.matrix import normalized

CELL = 2
"""Tokens along each side of a cell, of which one stays (section 4 of the paper)."""


def corners(rows: int, columns: int, first: int = 0) -> tuple[list[int], list[int]]:
    """(tokens that may go, tokens that stay) of a grid behind ``first`` others: the corner of each 2x2 cell stays.

    The paper draws one of a cell at random; the corner is the same in every call.

    >>> corners(2, 4)
    ([1, 3, 4, 5, 6, 7], [0, 2])
    """
    wide = CELL if rows > 1 else CELL * CELL
    places = [
        (first + row * columns + column, row % CELL or column % wide)
        for row in range(rows)
        for column in range(columns)
    ]
    return [at for at, goes in places if goes], [at for at, goes in places if not goes]


def by_cell(metric: Tensor, count: int, going: list[int], staying: list[int]) -> Tensor:
    """Parents [B, T]: of the tokens ``going``, the ``count`` most similar to one ``staying`` go into that.

    Args:
        metric: [B, T, D].
    """
    unit = normalized(metric)
    source, target = (torch.tensor(item, device=metric.device) for item in (going, staying))
    best = (unit.index_select(1, source) @ unit.index_select(1, target).transpose(1, 2)).max(-1)
    chosen = best.values.topk(count, dim=1).indices
    return joined(metric, source[chosen], target[best.indices.gather(1, chosen)])
