"""Refined masks: never worse, better with every sweep, and near the best there is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor.errors import UsageError
from tersor.factor.least_squares import residual
from tersor.sparse import icbs
from tersor.sparse.icbs import refine
from tersor.sparse.masks import best, magnitude
from tersor.sparse.pattern import Pattern, conforms, is_pattern
from tersor.sparse.quadratic import moments
from tersor.sparse.refit import refit
from tersor.sparse.sparsegpt import sparsegpt
from tests.sparse.problems import every_mask, fitted, mean_square, problem

TWO_FOUR = Pattern(2, 4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([TWO_FOUR, Pattern(1, 2), Pattern(4, 8)]), st.booleans())
def test_it_is_never_worse_than_its_start(seed: int, pattern: Pattern, refitted: bool) -> None:
    weight, _, gram = problem(4, 16, samples=40, seed=seed)
    found = refine(weight, magnitude(weight, pattern), gram, pattern, refitted=refitted, sweeps=3)
    second = moments(weight, gram, 0.01)
    assert conforms(found.mask, pattern) and is_pattern(found.weight, pattern)
    assert bool((found.after <= found.before).all())
    torch.testing.assert_close(residual(weight, found.weight, second), found.after)
    torch.testing.assert_close(residual(weight, weight * magnitude(weight, pattern), second), found.before)


def test_its_start_may_be_sparsegpts_weights() -> None:
    weight, _, gram = problem(8, 32)
    pruned = sparsegpt(weight, gram, TWO_FOUR)
    found = refine(weight, pruned.mask, gram, TWO_FOUR, start=pruned.weight)
    second = moments(weight, gram, 0.01)
    torch.testing.assert_close(found.before, residual(weight, pruned.weight, second))
    assert bool((found.after <= found.before).all())
    assert float(found.after.sum()) < float(residual(weight, refit(weight, pruned.mask, gram), second).sum())


@pytest.mark.parametrize("refitted", [True, False])
def test_every_sweep_lowers_the_error_until_it_rests(refitted: bool) -> None:
    weight, _, gram = problem(8, 64, seed=2)
    runs = [
        refine(weight, magnitude(weight, TWO_FOUR), gram, TWO_FOUR, refitted=refitted, sweeps=sweeps)
        for sweeps in (0, 1, 2, 4, 50)
    ]
    totals = [float(run.after.sum()) for run in runs]
    assert totals == sorted(totals, reverse=True) and totals[1] < totals[0] and totals[2] < totals[1]
    last = runs[-1]
    assert last.sweeps < 50
    again = refine(weight, last.mask, gram, TWO_FOUR, refitted=refitted)
    assert torch.equal(again.mask, last.mask) and again.sweeps == 1


@pytest.mark.parametrize("pattern", [TWO_FOUR, Pattern(1, 4), Pattern(4, 8)], ids=str)
def test_one_block_is_solved(pattern: Pattern) -> None:
    weight, x, gram = problem(3, pattern.m)
    start = best(-weight.roll(1, 1), gram, pattern)
    fixed = refine(weight, start, gram, pattern, refitted=False, damping=0.0)
    assert torch.equal(fixed.mask, best(weight, gram, pattern))
    assert torch.equal(fixed.weight, weight * fixed.mask)
    free = refine(weight, start, gram, pattern, damping=0.0)
    for row, own in zip(weight, free.weight, strict=True):
        least = min(
            float(mean_square(x, row[None], fitted(x, row, mask)[None])) for mask in every_mask(pattern.m, pattern)
        )
        assert float(mean_square(x, row[None], own[None])) == pytest.approx(least)


def test_several_blocks_come_near_the_best_there_is() -> None:
    weight, _, gram = problem(6, 12, seed=4)
    second = moments(weight, gram, 0.01)
    costs = []
    for mask in every_mask(12, TWO_FOUR):
        costs.append(residual(weight, refit(weight, mask.expand_as(weight), gram), second))
    least = torch.stack(costs).min(0).values
    found = refine(weight, sparsegpt(weight, gram, TWO_FOUR).mask, gram, TWO_FOUR)
    assert bool((found.after >= least - 1e-9).all())
    assert float(found.after.sum()) < 1.1 * float(least.sum())
    assert bool((found.after < least * (1 + 1e-6)).any())


def test_rows_do_not_depend_on_how_they_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, _, gram = problem(10, 16)
    whole = refine(weight, magnitude(weight, TWO_FOUR), gram, TWO_FOUR)
    monkeypatch.setattr(icbs, "_ENTRIES", 72)
    parts = refine(weight, magnitude(weight, TWO_FOUR), gram, TWO_FOUR)
    assert torch.equal(whole.mask, parts.mask)
    torch.testing.assert_close(whole.weight, parts.weight)


def test_twin_inputs_are_told_apart() -> None:
    """Of two copies of one input one is enough, which magnitude does not see."""
    weight = torch.tensor([[3.0, 3.0, 2.0, 1.0]], dtype=torch.float64)
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 1] = x[:, 0]
    gram = x.mT @ x / 500
    found = refine(weight, magnitude(weight, TWO_FOUR), gram, TWO_FOUR, damping=1e-6)
    assert found.mask[0, 2] and found.mask[0, :2].sum() == 1
    torch.testing.assert_close(found.weight[0, :2].sum(), torch.tensor(6.0).double(), rtol=0.1, atol=0)


def test_what_does_not_belong_is_refused() -> None:
    weight, _, gram = problem(2, 8)
    with pytest.raises(UsageError, match="does not keep 2:4"):
        refine(weight, torch.ones(2, 8, dtype=torch.bool), gram, TWO_FOUR)
    with pytest.raises(UsageError, match="start from"):
        refine(weight, magnitude(weight, TWO_FOUR), gram, TWO_FOUR, start=weight, refitted=False)
