"""Tucker-2: exact at full rank, better than plain HOSVD and random factors, and aware of the inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.factor.gradients import flat_metric, metric
from tersor.factor.observe import Moments, channel_rows
from tersor.factor.tucker import Tucker, input_root, spectra, tucker

FLAT = flat_metric(12)
UNIT = torch.eye(10, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gap(made: Tucker, weight: Tensor) -> float:
    return float((made.weight - weight).square().sum())


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (2, 2, 2)])
def test_full_rank_is_exact(kernel: tuple[int, ...]) -> None:
    weight = normal(12, 10, *kernel)
    torch.testing.assert_close(tucker(weight, UNIT, FLAT, 12, 10).weight, weight)


def test_planted_factors_are_found() -> None:
    outer, core, inner = normal(12, 4), normal(4, 3, 3, 3, seed=1), normal(3, 10, seed=2)
    weight = Tucker(outer, core, inner).weight
    assert gap(tucker(weight, UNIT, FLAT, 4, 3), weight) < 1e-18 * float(weight.square().sum())


def test_the_chain_of_convolutions_is_the_weight() -> None:
    made, x = tucker(normal(12, 10, 3, 3), UNIT, FLAT, 4, 5), normal(2, 10, 6, 7, seed=3)
    inner, outer = made.inner[..., None, None], made.outer[..., None, None]
    chain = F.conv2d(F.conv2d(F.conv2d(x, inner), made.core, stride=2, padding=1), outer)
    torch.testing.assert_close(chain, F.conv2d(x, made.weight, stride=2, padding=1))


def test_sweeps_improve_and_beat_random_subspaces_and_stay_below_the_bound() -> None:
    weight = normal(12, 10, 3, 3)
    errors = [gap(tucker(weight, UNIT, FLAT, 5, 4, sweeps), weight) for sweeps in (0, 1, 3, 10)]
    assert errors == sorted(errors, reverse=True) and errors[2] < errors[0]
    assert errors[0] <= spectra(weight, UNIT, FLAT).error(5, 4) + 1e-9
    for seed in range(10):
        left = torch.linalg.qr(normal(12, 5, seed=seed)).Q
        right = torch.linalg.qr(normal(10, 4, seed=seed + 50)).Q
        core = torch.einsum("oihw,op,iq->pqhw", weight, left, right)
        assert errors[2] < gap(Tucker(left, core, right.T), weight)


def test_data_and_metric_lower_the_error_that_they_measure() -> None:
    weight = normal(12, 10, 3, 3)
    x = torch.einsum("ncyx,dc->ndyx", normal(32, 10, 8, 8, seed=1), normal(10, 10, seed=2) * torch.logspace(0, -2, 10))
    mixing = normal(12, 12, seed=4) * torch.logspace(0, -2, 12, dtype=torch.float64)
    m = metric(mixing @ mixing.T)

    def error(made: Tucker) -> float:
        return float(m.into(channel_rows(F.conv2d(x, made.weight - weight)).T).square().sum())

    root = input_root(Moments.of(channel_rows(x)), 10)
    aware = error(tucker(weight, root, m, 5, 4))
    assert aware < error(tucker(weight, root, FLAT, 5, 4))
    assert aware < error(tucker(weight, UNIT, FLAT, 5, 4)) * 0.5


def test_without_data_inputs_count_as_white() -> None:
    torch.testing.assert_close(input_root(None, 10), UNIT)
    torch.testing.assert_close(input_root(Moments(5, torch.zeros(10), torch.zeros(10, 10)), 10), UNIT)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_factors_are_of_the_size_of_the_weight(scale: float) -> None:
    weight, moments = normal(12, 10, 3, 3), Moments.of(normal(500, 10, seed=1) * scale)
    made = tucker(weight, input_root(moments, 10), flat_metric(12, 1 / scale), 5, 4)
    torch.testing.assert_close(made.outer.norm(dim=0), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(made.inner.norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert float(made.core.abs().max()) < 50
