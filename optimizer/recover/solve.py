"""Ridge regression for updates of a layer, judged on rows that it was not fitted on."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tersor.sparse.refit import solved

DAMPINGS = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, math.inf)
"""Multiples of the mean diagonal of the normal matrix; infinity moves the bias only."""

_CHUNK = 2048

_LIMIT = 5e9
"""Multiplications that an exact solution on a support may cost for each damping; beyond, it is iterated towards."""


@dataclass(frozen=True)
class Fit:
    """The best update of each group of a layer, nothing for groups that none improves.

    Attributes:
        update: to the weight, of shape [groups, inputs, outputs], float64.
        shift: to the bias, of shape [groups, outputs].
        damping: chosen for each group; NaN where nothing was.
        before, after: squared error of each group on the judging rows.
    """

    update: Tensor
    shift: Tensor
    damping: Tensor
    before: Tensor
    after: Tensor

    @property
    def improved(self) -> bool:
        """Whether any group gained."""
        return bool((self.after < self.before).any())


@dataclass(frozen=True)
class Rows:
    """A linear system: inputs [rows, groups, inputs], and what their product lacks, [rows, groups, outputs]."""

    inputs: Tensor
    residual: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    @classmethod
    def joined(cls, *parts: Rows) -> Rows:
        """The rows of all parts."""
        return cls(torch.cat([part.inputs for part in parts]), torch.cat([part.residual for part in parts]))

    def finite(self) -> Rows:
        """Those rows whose numbers are all finite."""
        good = self.inputs.isfinite().flatten(1).all(1) & self.residual.isfinite().flatten(1).all(1)
        return self if bool(good.all()) else Rows(self.inputs[good], self.residual[good])

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pieces of both in double precision, groups first."""
        for x, r in zip(self.inputs.split(_CHUNK), self.residual.split(_CHUNK), strict=True):
            yield x.double().transpose(0, 1), r.double().transpose(0, 1)


def ridge(
    fit: Rows,
    judge: Rows,
    dampings: Sequence[float] = DAMPINGS,
    biased: bool = True,
    support: Tensor | None = None,
) -> Fit:
    """Minimise ``|residual - inputs · update - shift|² + damping · d · |update|²`` for each group.

    ``d`` is the mean diagonal of the normal matrix, so that a damping means the same for every layer; being an update,
    the ridge shrinks towards the weights as they are (Hoerl and Kennard, Technometrics 1970). The damping of each group
    is the one with the least error on ``judge``, and a group that no damping improves is left alone.

    Args:
        biased: whether a shift is fitted too.
        support: weights that may change, bool [groups, inputs, outputs]; None for all.

    >>> x = torch.tensor([[[0.0]], [[1.0]], [[2.0]]])
    >>> rows = Rows(x, 3 * x + 1)
    >>> found = ridge(rows, rows)
    >>> round(found.update.item(), 4), round(found.shift.item(), 4)
    (3.0, 1.0)
    """
    system = _Normal(fit, biased, support)
    before = _error(judge, *system.nothing())
    best = Fit(*system.nothing(), torch.full_like(before, math.nan), before, before)
    for damping in dampings:
        update, shift = system.solve(damping)
        error = _error(judge, update, shift)
        best = _where(error < best.after, Fit(update, shift, torch.full_like(error, damping), before, error), best)
    return best


def refitted(found: Fit, rows: Rows, biased: bool = True, support: Tensor | None = None) -> Fit:
    """The same dampings, fitted on more rows; its errors stay those on rows that decided."""
    system = _Normal(rows, biased, support)
    made = Fit(*system.nothing(), found.damping, found.before, found.after)
    for damping in found.damping[~found.damping.isnan()].unique().tolist():
        update, shift = system.solve(damping)
        solved = update.isfinite().flatten(1).all(1) & (found.damping == damping)
        made = _where(solved, replace(found, update=update, shift=shift), made)
    return made


def _error(rows: Rows, update: Tensor, shift: Tensor) -> Tensor:
    total = rows.residual.new_zeros(rows.residual.shape[1], dtype=torch.float64)
    if not bool(update.any()):
        for part in rows.residual.split(_CHUNK):
            total += (part.double() - shift).square().sum((0, 2))
        return total
    for x, r in rows.chunks():
        total += (r - x @ update - shift[:, None, :]).square().sum((1, 2))
    return total


def _where(wins: Tensor, new: Fit, old: Fit) -> Fit:
    """Group by group one fit or the other."""
    return Fit(
        torch.where(wins[:, None, None], new.update, old.update),
        torch.where(wins[:, None], new.shift, old.shift),
        torch.where(wins, new.damping, old.damping),
        old.before,
        torch.where(wins, new.after, old.after),
    )


class _Normal:
    """The normal equations, in the smaller of their two forms: unknowns by unknowns, or rows by rows.

    Where some weights must stay as they are, only the first form says what the others have to become.
    """

    def __init__(self, rows: Rows, biased: bool, support: Tensor | None = None) -> None:
        self.mean_x, self.mean_r = _mean(rows.inputs, biased), _mean(rows.residual, biased)
        self.rows, self.support = rows, support
        self.wide = support is None and rows.inputs.shape[-1] > len(rows)

    def nothing(self) -> tuple[Tensor, Tensor]:
        """No update and no shift."""
        (groups, inputs), outputs = self.mean_x.shape, self.mean_r.shape[-1]
        return self.mean_x.new_zeros(groups, inputs, outputs), torch.zeros_like(self.mean_r)

    def solve(self, damping: float) -> tuple[Tensor, Tensor]:
        """Update and shift; NaN for groups whose matrix is singular."""
        if math.isinf(damping):
            return self.nothing()[0], self.mean_r
        matrix, right, inputs = self._equations
        ridge = damping * matrix.diagonal(dim1=-2, dim2=-1).sum(-1) / max(self.mean_x.shape[-1], 1)
        identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        matrix = matrix + ridge[:, None, None] * identity
        factor, failed = torch.linalg.cholesky_ex(matrix)
        found = torch.cholesky_solve(right, factor)
        found = found if inputs is None else inputs.mT @ found
        if self.support is not None and not bool(failed.any()):
            found = _supported(matrix, found, self.support)
        update = torch.where((failed == 0)[:, None, None], found, math.nan)
        return update, self.mean_r - (self.mean_x.unsqueeze(-2) @ update).squeeze(-2)

    @functools.cached_property
    def _equations(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Matrix and right side, and the inputs where the unknowns are a combination of them."""
        means = self.mean_x.unsqueeze(-2), self.mean_r.unsqueeze(-2)
        centred = ((x - means[0], r - means[1]) for x, r in self.rows.chunks())
        if self.wide:
            pairs = list(centred)
            inputs, right = (torch.cat(parts, 1) for parts in zip(*pairs, strict=True))
            return inputs @ inputs.mT, right, inputs
        matrix, right = torch.zeros_like(means[0]), torch.zeros_like(means[1])
        for x, r in centred:
            matrix, right = matrix + x.mT @ x, right + x.mT @ r
        return matrix, right, None


def _supported(matrix: Tensor, found: Tensor, support: Tensor) -> Tensor:
    """The solution with zeros outside the support that is nearest to the free one, measured by the matrix."""
    parts = zip(found, support, matrix, strict=True)
    return torch.stack([solved(free.T, mask.T, second, limit=_LIMIT).T for free, mask, second in parts])


def _mean(values: Tensor, biased: bool) -> Tensor:
    """Mean over rows; zeros where there is no bias to take it up."""
    if biased:
        return values.mean(0, dtype=torch.float64)
    return values.new_zeros(values.shape[1:], dtype=torch.float64)
