"""Refitted weights against torch's least squares."""

from __future__ import annotations

import itertools

import pytest
import torch

from tersor.errors import UsageError
from tersor.factor.least_squares import residual
from tersor.sparse.masks import magnitude
from tersor.sparse.pattern import Pattern
from tersor.sparse.quadratic import moments
from tersor.sparse.refit import cost, refit
from tests.sparse.problems import fitted, mean_square, problem


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_least_squares_gives_the_same(damping: float) -> None:
    weight, x, gram = problem(8, 16)
    mask = magnitude(weight, Pattern(2, 4))
    wanted = torch.stack([fitted(x, row, kept, damping) for row, kept in zip(weight, mask, strict=True)])
    torch.testing.assert_close(refit(weight, mask, gram, damping=damping), wanted)


def test_rows_may_share_masks_and_keep_different_numbers() -> None:
    weight, x, gram = problem(9, 8)
    mask = magnitude(weight, Pattern(2, 4))
    mask[3] = mask[5] = mask[0]
    mask[1] = True
    mask[2] = False
    mask[4, :4] = True
    found = refit(weight, mask, gram, damping=0.0)
    wanted = torch.stack([fitted(x, row, kept) for row, kept in zip(weight, mask, strict=True)])
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found[1], weight[1])
    assert cost(mask) < 7 * 8**3 / 3


def test_nothing_kept_is_nothing() -> None:
    weight, _, gram = problem(2, 4)
    assert not refit(weight, torch.zeros(2, 4, dtype=torch.bool), gram).any()


def test_beyond_the_limit_it_comes_near_and_never_rises() -> None:
    weight, _, gram = problem(8, 32)
    mask = magnitude(weight, Pattern(2, 4))
    second = moments(weight, gram, 0.01)
    errors = [
        residual(weight, refit(weight, mask, gram, limit=0, steps=steps), second) for steps in (0, 1, 2, 4, 8, 64)
    ]
    assert all(bool((late <= early + 1e-12).all()) for early, late in itertools.pairwise(errors))
    torch.testing.assert_close(errors[-1], residual(weight, refit(weight, mask, gram), second))
    torch.testing.assert_close(errors[0], residual(weight, weight * mask, second))


def test_a_start_is_gone_on_from() -> None:
    weight, _, gram = problem(4, 16)
    mask = magnitude(weight, Pattern(2, 4))
    exact = refit(weight, mask, gram)
    torch.testing.assert_close(refit(weight, mask, gram, start=exact, limit=0, steps=1), exact)


def test_outputs_come_nearer_on_the_inputs_themselves() -> None:
    weight, x, gram = problem(16, 32)
    mask = magnitude(weight, Pattern(2, 4))
    before, after = mean_square(x, weight, weight * mask), mean_square(x, weight, refit(weight, mask, gram))
    assert bool((after < before).all()) and float(after.sum()) < 0.5 * float(before.sum())


def test_what_does_not_belong_is_refused() -> None:
    weight, _, gram = problem(2, 4)
    with pytest.raises(UsageError, match="bool"):
        refit(weight, torch.ones(2, 4), gram)
    with pytest.raises(UsageError, match="start"):
        refit(weight, weight > 0, gram, start=weight[:1])
