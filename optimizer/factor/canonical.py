"""CP decomposition of a convolution: a thin 1 x 1, one k x k filter per channel of the middle, a thin 1 x 1.

The taps of the kernel are one mode (Astrid and Lee, arXiv:1701.07148), so that the middle is a plain depthwise
convolution; separating them too (Lebedev et al., arXiv:1412.6553) saves little beside the two 1 x 1 and costs a launch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.factor.gradients import Metric
from tersor.factor.tucker import whitened

RIDGE = 1e-8
"""Keeps factors that nearly cancel each other from growing without bound."""


@dataclass(frozen=True)
class Canonical:
    """``weight[o, i, :] = sum over r of outer[o, r] filters[r, :] inner[r, i]``.

    Attributes:
        outer: (out, r).
        filters: (r, *kernel).
        inner: (r, in).
        error: energy of what is left, as the metric sees it.
    """

    outer: Tensor
    filters: Tensor
    inner: Tensor
    error: float

    @property
    def weight(self) -> Tensor:
        """The (out, in, *kernel) weight that the three together have."""
        made = torch.einsum("or,rk,ri->oik", self.outer, self.filters.flatten(1), self.inner)
        return made.unflatten(2, self.filters.shape[1:])


def canonical(weight: Tensor, root: Tensor, metric: Metric, rank: int, sweeps: int = 40, seed: int = 0) -> Canonical:
    """CP by alternating least squares (Kolda and Bader, SIAM Review 2009, section 3.4).

    Args:
        weight: (out, in, *kernel).
        root: (in, in), see `tersor.factor.tucker.input_root`.
        metric: which errors of the outputs matter.
        rank: channels of the middle.
        sweeps: of alternating improvement; each lowers the error or leaves it.
        seed: of the start where the rank is larger than a mode.
    """
    seen = whitened(weight, root, metric)
    factors = [_start(seen, mode, rank, seed) for mode in range(3)]
    for _ in range(sweeps):
        for mode in range(3):
            factors[mode] = _solved(seen, factors, mode)
        factors = _balanced(factors)
    outer, inner, filters = factors
    error = float((seen - torch.einsum("or,ir,kr->oik", outer, inner, filters)).square().sum())
    back = torch.linalg.solve_triangular(root, inner.T, upper=False, left=False)
    outer, filters, inner = _bounded(metric.out_of(outer), filters.T, back)
    return Canonical(outer, filters.unflatten(1, weight.shape[2:]), inner, error)


def _start(seen: Tensor, mode: int, rank: int, seed: int) -> Tensor:
    """The strongest directions of a mode, filled up with random ones."""
    flat = seen.movedim(mode, 0).flatten(1)
    strong = torch.linalg.eigh(flat @ flat.T).eigenvectors.flip(1)[:, :rank]
    draws = torch.Generator().manual_seed(seed + mode)
    rest = torch.randn(len(flat), rank - strong.shape[1], generator=draws, dtype=flat.dtype) / len(flat) ** 0.5
    return torch.cat([strong, rest], dim=1)


def _solved(seen: Tensor, factors: list[Tensor], mode: int) -> Tensor:
    """The best factor of one mode for the others as they are."""
    first, second = (factors[other] for other in range(3) if other != mode)
    gram = (first.T @ first) * (second.T @ second)
    gram.diagonal().add_(RIDGE * gram.diagonal().mean().clamp_min(1e-300))
    wanted = torch.einsum("mab,ar,br->mr", seen.movedim(mode, 0), first, second)
    return torch.linalg.solve(gram, wanted.T).T


def _balanced(factors: list[Tensor]) -> list[Tensor]:
    """Each of the three columns of a component as long as the others."""
    norms = [factor.norm(dim=0).clamp_min(1e-150) for factor in factors]
    common = (norms[0] * norms[1] * norms[2]) ** (1 / 3)
    return [factor / norm * common for factor, norm in zip(factors, norms, strict=True)]


def _bounded(outer: Tensor, filters: Tensor, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit columns outside and unit rows inside, so that no factor overflows in half precision."""
    left, right = outer.norm(dim=0).clamp_min(1e-300), inner.norm(dim=1).clamp_min(1e-300)
    return outer / left, filters * (left * right)[:, None], inner / right[:, None]
