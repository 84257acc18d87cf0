"""Least squares for pruned weights: the values of the kept ones that make up best for those that are gone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.factor.least_squares import residual
from tersor.sparse.quadratic import factor, moments

LIMIT = 5e10
"""Multiplications that exact solutions may cost, ten seconds of a CPU's core; beyond, they are iterated towards."""

_ENTRIES = 1 << 24
"""Float64 entries of the matrices that are factorised at once: 128 MB."""


@torch.no_grad()
def refit(
    weight: Tensor,
    mask: Tensor,
    gram: Tensor,
    *,
    start: Tensor | None = None,
    damping: float = 0.01,
    limit: float = LIMIT,
    steps: int = 50,
) -> Tensor:
    """The kept weights that bring a layer nearest to its outputs before pruning, in the least-squares sense.

    Minimises E[((w - v)·x)²] over v that are zero outside the mask, row by row. The solution is exact, by Cholesky
    factors that rows with the same mask share, as long as that costs at most ``limit`` multiplications; beyond,
    conjugate gradients on all rows at once come near it, and every step lowers the error.

    Args:
        weight: before pruning, ``[out, in]``.
        mask: weights that stay, bool ``[out, in]``; any mask.
        gram: second moments of the inputs or a multiple, ``[in, in]``.
        start: weights to iterate from, zero outside the mask; the pruned original otherwise.
        damping: as in `moments`; draws the result towards the original weights.
        limit: multiplications.
        steps: of the iteration.

    Returns:
        ``[out, in]`` in the weight's dtype; no row is worse than its start.

    Raises:
        UsageError: as `moments`; the mask or start does not fit; singular moments.
    """
    if mask.shape != weight.shape or mask.dtype != torch.bool:
        raise UsageError(f"a mask {tuple(mask.shape)} of {mask.dtype}", f"bool of shape {tuple(weight.shape)}")
    if start is not None and start.shape != weight.shape:
        raise UsageError(f"a start {tuple(start.shape)} for a weight {tuple(weight.shape)}", "equal shapes")
    second = moments(weight, gram, damping)
    return solved(weight.double(), mask, second, start, limit, steps).to(weight.dtype)


def solved(
    weight: Tensor, mask: Tensor, second: Tensor, start: Tensor | None = None, limit: float = LIMIT, steps: int = 50
) -> Tensor:
    """`refit` with moments that are checked and damped already; float64 throughout."""
    first = (weight if start is None else start.double()).masked_fill(~mask, 0)
    groups = list(_shared(mask)) if limit > 0 and cost(mask) <= limit else []
    found = _exact(weight, groups, second) if groups else _iterated(weight, mask, second, first, steps)
    worse = residual(weight, found, second) > residual(weight, first, second)
    return torch.where(worse[:, None], first, found)


def cost(mask: Tensor) -> float:
    """Multiplications of exact solutions: a third of the cube of the kept weights, once for each different mask."""
    kept = mask.unique(dim=0).sum(1).double()
    return float((kept**3 / 3).sum())


def _shared(mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows ``[masks, rows]`` that share a mask, and what they keep ``[masks, kept]``, alike in both numbers."""
    masks, member = mask.unique(dim=0, return_inverse=True)
    rows, kept = member.bincount(minlength=len(masks)), masks.sum(1)
    order, starts = member.argsort(stable=True), rows.cumsum(0) - rows
    for count, size in torch.stack([rows, kept], 1).unique(dim=0).tolist():
        if not size:
            continue
        alike = ((rows == count) & (kept == size)).nonzero().flatten()
        for part in alike.split(max(_ENTRIES // size**2, 1)):
            places = order[starts[part, None] + torch.arange(count, device=mask.device)]
            yield places, masks[part].nonzero()[:, 1].unflatten(0, (-1, size))


def _exact(weight: Tensor, groups: list[tuple[Tensor, Tensor]], second: Tensor) -> Tensor:
    found, pulls = torch.zeros_like(weight), weight @ second
    for rows, kept in groups:
        root = factor(second[kept[:, :, None], kept[:, None, :]])
        sides = pulls[rows[:, :, None], kept[:, None, :]]
        found[rows[:, :, None], kept[:, None, :]] = torch.cholesky_solve(sides.mT, root).mT
    return found


def _iterated(weight: Tensor, mask: Tensor, second: Tensor, start: Tensor, steps: int) -> Tensor:
    """Conjugate gradients, Hestenes and Stiefel, 1952, preconditioned by the diagonal."""
    found, scale = start.clone(), 1 / second.diagonal()
    residual = ((weight - found) @ second) * mask
    direction = residual * scale
    power = (residual * direction).sum(1, keepdim=True)
    for _ in range(steps):
        change = (direction @ second) * mask
        curve = (direction * change).sum(1, keepdim=True)
        step = torch.where(curve > 0, power / curve, 0.0)
        found += step * direction
        residual -= step * change
        conditioned = residual * scale
        former, power = power, (residual * conditioned).sum(1, keepdim=True)
        direction = conditioned + torch.where(former > 0, power / former, 0.0) * direction
    return found
