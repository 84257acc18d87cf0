"""CP of convolutions: planted factors, the chain of convolutions, and errors that only fall."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.factor.canonical import Canonical, canonical
from tersor.factor.gradients import flat_metric, metric
from tersor.factor.observe import Moments
from tersor.factor.tucker import input_root

FLAT = flat_metric(12)
UNIT = torch.eye(10, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gap(made: Canonical, weight: Tensor) -> float:
    return float((made.weight - weight).square().sum())


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (2, 2, 2)])
def test_planted_factors_are_found(kernel: tuple[int, ...]) -> None:
    weight = Canonical(normal(12, 4), normal(4, *kernel, seed=1), normal(4, 10, seed=2), 0.0).weight
    made = canonical(weight, UNIT, FLAT, 4, sweeps=200)
    assert gap(made, weight) < 1e-6 * float(weight.square().sum())
    assert made.error == pytest.approx(gap(made, weight), rel=1e-6, abs=1e-12)


def test_one_component_is_the_best_rank_one_of_a_pointwise_kernel() -> None:
    weight = normal(12, 10, 1)
    made, (left, values, right) = canonical(weight, UNIT, FLAT, 1), torch.linalg.svd(weight[..., 0])
    best = values[0] * left[:, :1] @ right[:1]
    torch.testing.assert_close(made.weight[..., 0], best, rtol=1e-4, atol=1e-5)


def test_more_sweeps_and_more_components_never_hurt() -> None:
    weight = normal(12, 10, 3, 3)
    sweeps = [canonical(weight, UNIT, FLAT, 6, sweeps=n).error for n in (1, 3, 10, 40)]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(sweeps))
    ranks = [canonical(weight, UNIT, FLAT, rank).error for rank in (2, 6, 20, 60)]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[-1] < 0.1 * ranks[0]


def test_the_chain_of_convolutions_is_the_weight() -> None:
    made, x = canonical(normal(12, 10, 3, 3), UNIT, FLAT, 16), normal(2, 10, 6, 7, seed=3)
    middle = F.conv2d(x, made.inner[..., None, None])
    middle = F.conv2d(middle, made.filters[:, None], stride=2, padding=1, groups=16)
    chain = F.conv2d(middle, made.outer[..., None, None])
    torch.testing.assert_close(chain, F.conv2d(x, made.weight, stride=2, padding=1))


def test_data_and_metric_lower_the_error_that_they_measure() -> None:
    weight = normal(12, 10, 3, 3)
    x = torch.einsum("ncyx,dc->ndyx", normal(32, 10, 8, 8, seed=1), normal(10, 10, seed=2) * torch.logspace(0, -2, 10))
    rows = x.movedim(1, -1).flatten(0, -2)
    seen = Moments(len(rows), rows.mean(0), rows.T @ rows / len(rows))
    mixing = normal(12, 12, seed=4) * torch.logspace(0, -2, 12, dtype=torch.float64)
    matters = metric(mixing @ mixing.T)

    def measured(made: Canonical) -> float:
        wrong = F.conv2d(x, made.weight - weight)
        return float(matters.into(wrong.movedim(1, 0).flatten(1)).square().sum())

    aware, blind = canonical(weight, input_root(seen, 10), matters, 8), canonical(weight, UNIT, FLAT, 8)
    assert measured(aware) < 0.7 * measured(blind)


def test_the_same_seed_gives_the_same_factors() -> None:
    weight = normal(12, 10, 3, 3)
    made, again = (canonical(weight, UNIT, FLAT, 20, sweeps=5, seed=3) for _ in range(2))
    assert torch.equal(made.outer, again.outer) and torch.equal(made.filters, again.filters)


def test_weights_of_zeros_stay_zero() -> None:
    made = canonical(torch.zeros(12, 10, 3, 3), UNIT, FLAT, 4)
    assert float(made.weight.abs().max()) == 0.0 and bool(made.outer.isfinite().all())
