"""The quadratic model against outputs on the inputs themselves."""

from __future__ import annotations

import pytest
import torch

from tersor.errors import UsageError
from tersor.factor.least_squares import residual
from tersor.sparse.quadratic import inverse, moments
from tests.sparse.problems import mean_square, problem


def test_the_error_is_that_of_the_outputs() -> None:
    weight, x, gram = problem(5, 12)
    other = weight * (weight.abs() > 0.5)
    torch.testing.assert_close(residual(weight, other, gram), mean_square(x, weight, other))
    torch.testing.assert_close(residual(weight, other, moments(weight, gram, 0.0)), mean_square(x, weight, other))


def test_damping_is_relative_and_spares_what_is_never_active() -> None:
    weight, _, gram = problem(2, 4)
    gram[3], gram[:, 3] = 0, 0
    second = moments(weight, gram, 0.5)
    mean = gram.diagonal().mean()
    torch.testing.assert_close(second[:3, :3], gram[:3, :3] + 0.5 * mean * torch.eye(3).double())
    assert 0 < float(second[3, 3]) < 1e-8 * float(mean)
    torch.testing.assert_close(inverse(second) @ second, torch.eye(4).double())
    assert bool(inverse(moments(weight, torch.zeros(4, 4), 0.01)).isfinite().all())


def test_moments_are_made_symmetric() -> None:
    weight, _, gram = problem(2, 4)
    gram[0, 1] += 1e-9
    second = moments(weight, gram, 0.0)
    assert torch.equal(second, second.mT)


@pytest.mark.parametrize("damping", [-0.1, float("nan")])
def test_damping_that_is_none_is_refused(damping: float) -> None:
    weight, _, gram = problem(2, 4)
    with pytest.raises(UsageError, match="damping"):
        moments(weight, gram, damping)


def test_singular_and_broken_moments_are_refused() -> None:
    weight, _, gram = problem(2, 4)
    with pytest.raises(UsageError, match="singular"):
        inverse(torch.ones(4, 4).double())
    with pytest.raises(UsageError, match="finite"):
        moments(weight, gram * torch.nan, 0.1)
    with pytest.raises(UsageError, match=r"\(2, 4\)"):
        moments(weight, gram[:3, :3], 0.1)
