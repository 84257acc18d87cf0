"""Masks against brute force over all of them."""

from __future__ import annotations

import pytest
import torch

from tersor.errors import UsageError
from tersor.sparse.masks import best, magnitude, top, wanda
from tersor.sparse.pattern import Pattern, conforms
from tests.sparse.problems import every_mask, mean_square, problem

PATTERNS = [Pattern(2, 4), Pattern(1, 4), Pattern(4, 8), Pattern(3, 4)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_no_mask_keeps_more_magnitude(pattern: Pattern) -> None:
    weight, _, _ = problem(3, 8)
    mask = magnitude(weight, pattern)
    assert conforms(mask, pattern)
    for row, own in zip(weight, mask, strict=True):
        most = max(float((row * other).abs().sum()) for other in every_mask(8, pattern))
        assert float((row * own).abs().sum()) == pytest.approx(most)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_with_unrelated_inputs_wanda_is_best(pattern: Pattern) -> None:
    weight, _, _ = problem(3, 8)
    squares = torch.linspace(0.1, 3, 8).double()
    mask = wanda(weight, squares.sqrt(), pattern)
    assert torch.equal(mask, best(weight, torch.diag(squares), pattern))
    for row, own in zip(weight, mask, strict=True):
        costs = [float((row * ~other).square() @ squares) for other in every_mask(8, pattern)]
        assert float((row * ~own).square() @ squares) == pytest.approx(min(costs))


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_in_one_block_the_best_mask_has_the_least_error(pattern: Pattern) -> None:
    weight, x, gram = problem(5, pattern.m)
    found = mean_square(x, weight, weight * best(weight, gram, pattern))
    costs = torch.stack([mean_square(x, weight, weight * other) for other in every_mask(pattern.m, pattern)])
    torch.testing.assert_close(found, costs.min(0).values)
    assert float(found.sum()) <= float(mean_square(x, weight, weight * magnitude(weight, pattern)).sum())


def test_blocks_do_not_mix_and_the_first_of_equal_ones_stays() -> None:
    scores = torch.tensor([[9.0, 8.0, 7.0, 6.0, 1.0, 1.0, 1.0, 1.0]])
    assert top(scores, Pattern(2, 4)).tolist() == [[True, True, False, False] * 2]


def test_half_precision_and_its_overflow() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float16)
    norms = torch.tensor([3e4, 6e4, 1e3, 1e3], dtype=torch.float16)
    assert wanda(weight, norms, Pattern(1, 4)).tolist() == [[False, True, False, False]]
    assert wanda(-weight, torch.full((4,), 6e4), Pattern(1, 4)).tolist() == [[False, False, False, True]]


def test_statistics_that_do_not_belong_are_refused() -> None:
    with pytest.raises(UsageError, match="one norm for each input"):
        wanda(torch.zeros(2, 4), torch.zeros(5), Pattern(2, 4))
    with pytest.raises(UsageError, match="second moments"):
        best(torch.zeros(2, 4), torch.zeros(5, 5), Pattern(2, 4))
    with pytest.raises(UsageError, match="not finite"):
        best(torch.full((2, 4), torch.nan), torch.eye(4), Pattern(2, 4))
