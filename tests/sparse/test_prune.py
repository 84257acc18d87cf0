"""One layer pruned: every method keeps the pattern, and those that look at more lose less."""

from __future__ import annotations

import pytest
import torch

from tersor.errors import UsageError
from tersor.sparse.pattern import Pattern, conforms
from tersor.sparse.prune import METHODS, prune
from tests.sparse.problems import mean_square, problem


def test_what_is_lost_is_measured_on_the_outputs() -> None:
    weight, x, gram = problem(8, 32)
    for method in METHODS:
        made = prune(weight, gram, Pattern(2, 4), method)
        energy = (x @ weight.mT).square().mean(0).sum()
        assert made.lost == pytest.approx(float(mean_square(x, weight, made.weight).sum() / energy))
        assert conforms(made.mask, Pattern(2, 4)) and not bool(made.weight[~made.mask].any())


def test_each_step_of_the_recipe_loses_less() -> None:
    weight, _, gram = problem(16, 64)
    chosen = prune(weight, gram, Pattern(2, 4), "wanda").lost
    updated = prune(weight, gram, Pattern(2, 4), sweeps=0).lost
    refined = prune(weight, gram, Pattern(2, 4), sweeps=3).lost
    assert refined < updated < chosen < prune(weight, torch.eye(64), Pattern(2, 4), "magnitude").lost * 2
    assert refined < 0.9 * updated


def test_dtype_and_bad_method() -> None:
    weight, _, gram = problem(4, 8)
    assert prune(weight.half(), gram, Pattern(2, 4)).weight.dtype == torch.float16
    with pytest.raises(UsageError, match="one of sparsegpt, wanda, magnitude"):
        prune(weight, gram, Pattern(2, 4), "best")
