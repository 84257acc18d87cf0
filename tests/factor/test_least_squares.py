"""Fitted maps: against numpy's least squares, and near the guess where data is scarce."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tersor.factor.least_squares import Pairs, refit, refit_on, residual


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def paired(x: Tensor, y: Tensor) -> Pairs:
    pairs = Pairs.empty(x.shape[1], y.shape[1])
    for start in range(0, len(x), 7):
        pairs.add(x[start : start + 7], y[start : start + 7])
    return pairs


def test_many_rows_give_the_least_squares_answer() -> None:
    x = normal(5000, 6) * torch.logspace(0, -1, 6) + 2.0
    y = x @ normal(6, 3, seed=1) + normal(5000, 3, seed=2) * 0.1 - 1.0
    weight, shift = refit(torch.zeros(3, 6), paired(x, y))
    with_one = np.concatenate([x.numpy(), np.ones((5000, 1))], axis=1)
    wanted = np.linalg.lstsq(with_one, y.numpy(), rcond=None)[0]
    # The penalty weighs as much as a few of the 5,000 rows.
    np.testing.assert_allclose(weight.numpy(), wanted[:6].T, atol=0.1)
    errors = [float((x @ w.T + b - y).square().sum()) for w, b in ((weight, shift), wanted_map(wanted))]
    assert errors[0] < errors[1] * 1.01


def wanted_map(solution: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(solution[:-1].T), torch.from_numpy(solution[-1])


def test_few_rows_stay_near_the_guess() -> None:
    guess, x = normal(3, 40), normal(4, 40, seed=1)
    y = x @ guess.T + 0.1 * normal(4, 3, seed=2)
    weight, _ = refit(guess, paired(x, y))
    assert float((weight - guess).norm() / guess.norm()) < 0.05


def test_a_perfect_guess_stays() -> None:
    guess, x = normal(3, 5), normal(50, 5, seed=1)
    weight, shift = refit(guess, paired(x, x @ guess.T + 1.5))
    torch.testing.assert_close(weight, guess)
    torch.testing.assert_close(shift, torch.full((3,), 1.5, dtype=torch.float64))


def test_on_features_against_numpy() -> None:
    weight, features, root = normal(4, 8), normal(3, 8, seed=1), normal(8, 8, seed=2)
    covariance = root @ root.T
    made = refit_on(weight, covariance, features)
    wanted = np.linalg.lstsq((features @ root).T.numpy(), (weight @ root).T.numpy(), rcond=None)[0].T
    np.testing.assert_allclose(made.numpy(), wanted, atol=1e-6)
    error = ((weight - made @ features) @ root).square().sum(1)
    torch.testing.assert_close(residual(weight, made @ features, covariance), error)


def test_nothing_seen_is_not_usable() -> None:
    assert not Pairs.empty(2, 2).is_usable()
    assert not paired(torch.full((3, 2), float("inf")), torch.zeros(3, 2)).is_usable()
