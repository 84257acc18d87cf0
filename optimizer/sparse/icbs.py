"""Refinement of N:M masks: the choice of one block after another, each the best one given all others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.factor.least_squares import residual
from tersor.sparse.pattern import Pattern, conforms, every_choice
from tersor.sparse.quadratic import factor, moments
from tersor.sparse.refit import LIMIT, solved

_ENTRIES = 1 << 23
"""Float64 entries of the tables of rows, choices and inputs that are made at once: 64 MB."""

_STEPS = 20
"""Of conjugate gradients for all values, before each sweep and, where exact solutions cost too much, at the end."""


@dataclass(frozen=True, eq=False)
class Refined:
    """A better mask and its weights.

    Attributes:
        weight: ``[out, in]``, zero outside the mask, in the dtype of the original.
        mask: bool ``[out, in]``, exactly n of m.
        before, after: squared error of each row's output, damped, float64 ``[out]``; no row's rises, but for the
            rounding of the result to its dtype.
        sweeps: over all blocks that were made.
    """

    weight: Tensor
    mask: Tensor
    before: Tensor
    after: Tensor
    sweeps: int


@torch.no_grad()
def refine(
    weight: Tensor,
    mask: Tensor,
    gram: Tensor,
    pattern: Pattern,
    *,
    refitted: bool = True,
    start: Tensor | None = None,
    sweeps: int = 10,
    damping: float = 0.01,
    limit: float = LIMIT,
) -> Refined:
    """Lower the error of a layer by other choices of what stays.

    The optimisation over masks of the Combinatorial Brain Surgeon (Yu et al., ICML 2022, arXiv:2203.04466) by block
    coordinate descent as in iCBS (Rosenberg et al., arXiv:2411.17796), for N:M patterns: each block in turn takes the
    best of all its choices, while the other blocks stay. With ``refitted`` the values of the block's kept weights are
    variables as well, and between sweeps the values of all blocks are refitted together.

    Args:
        weight: before pruning, ``[out, in]``.
        mask: to start from, bool ``[out, in]``.
        gram: second moments of the inputs or a multiple, ``[in, in]``.
        pattern: that the mask has.
        refitted: False leaves kept weights at their original values.
        start: weights to start from, zero outside the mask, where they are refitted; the pruned original otherwise.
        sweeps: at most; it ends when no mask changes.
        damping: as in `moments`.
        limit: multiplications of an exact refit, see `refit`.

    Raises:
        UsageError: as `moments`; the mask does not follow the pattern; a start without refitting.
    """
    if mask.shape != weight.shape or not conforms(mask, pattern):
        raise UsageError(f"the mask does not keep {pattern} of a weight {tuple(weight.shape)}", "a mask that does")
    if start is not None and (not refitted or start.shape != weight.shape):
        raise UsageError("weights to start from that cannot be used", "as many as there are, and refitted=True")
    second = moments(weight, gram, damping)
    options = every_choice(pattern).to(weight.device)
    first = _Course(weight.double(), mask, (weight if start is None else start).double().masked_fill(~mask, 0))
    parts = list(first.split(max(_ENTRIES // options.numel(), 1)))
    done = [_descend(part, second, options, sweeps, limit / len(parts) if refitted else None) for part in parts]
    last = _Course(
        first.weight, torch.cat([part.mask for part, _ in done]), torch.cat([part.value for part, _ in done])
    )
    before, after = residual(first.weight, first.value, second), residual(last.weight, last.value, second)
    worse = (after > before)[:, None]
    return Refined(
        torch.where(worse, first.value, last.value).to(weight.dtype),
        torch.where(worse, mask, last.mask),
        before,
        torch.minimum(before, after),
        max(count for _, count in done),
    )


@dataclass(frozen=True, eq=False)
class _Course:
    """Rows on their way: original weights, masks and present values, all ``[rows, in]``."""

    weight: Tensor
    mask: Tensor
    value: Tensor

    def split(self, rows: int) -> Iterator[_Course]:
        parts = (item.split(rows) for item in (self.weight, self.mask, self.value))
        return (_Course(*part) for part in zip(*parts, strict=True))


def _descend(course: _Course, second: Tensor, options: Tensor, sweeps: int, limit: float | None) -> tuple[_Course, int]:
    """Sweeps until no mask changes, and how many; a limit of None is no refitting."""
    count, settled = 0, False
    while count < sweeps and not settled:
        course = _refitted(course, second, None if limit is None else 0)
        former, course = course.mask, _sweep(course, second, options, limit is not None)
        count, settled = count + 1, torch.equal(former, course.mask)
    return _refitted(course, second, limit), count


def _refitted(course: _Course, second: Tensor, limit: float | None) -> _Course:
    if limit is None:
        return course
    return replace(course, value=solved(course.weight, course.mask, second, course.value, limit, _STEPS))


def _sweep(course: _Course, second: Tensor, options: Tensor, refitted: bool) -> _Course:
    """Every block once; the error of no row rises."""
    weight, mask, value = course.weight, course.mask.clone(), course.value.clone()
    pull, size = (weight - value) @ second, options.shape[1]
    for place in range(0, weight.shape[1], size):
        here = slice(place, place + size)
        local, former = second[here, here], weight[:, here] - value[:, here]
        outer = pull[:, here] - former @ local
        gaps = _gaps(weight[:, here], outer, local, options, refitted)
        costs = ((gaps @ local + 2 * outer[:, None]) * gaps).sum(2)
        present = (mask[:, None, here] == options).all(2).to(torch.uint8).argmax(1)
        lowest, winner = costs.min(1)
        own = costs.gather(1, present[:, None]).squeeze(1)
        # A change that gains no more than rounding would let equal masks take turns for ever.
        winner = torch.where(own - lowest > 1e-12 * own.abs(), winner, present)
        gap = gaps[torch.arange(len(gaps), device=gaps.device), winner]
        pull += (gap - former) @ second[here]
        mask[:, here] = options[winner]
        value[:, here] = (weight[:, here] - gap).masked_fill(~options[winner], 0)
    return _Course(weight, mask, value)


def _gaps(weight: Tensor, outer: Tensor, local: Tensor, options: Tensor, refitted: bool) -> Tensor:
    """What each choice lacks of a block's weights, ``[rows, choices, m]``, the kept ones at their best."""
    gone = weight[:, None] * ~options
    if not refitted:
        return gone
    kept = options.to(local)
    inner = kept[:, :, None] * local * kept[:, None, :] + torch.diag_embed(1 - kept)
    slope = (gone @ local + outer[:, None]) * kept
    return gone - torch.cholesky_solve(slope.permute(1, 2, 0), factor(inner)).permute(2, 0, 1)
