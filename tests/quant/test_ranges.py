"""Histograms against numpy's, and ranges against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tersor.errors import UsageError
from tersor.quant.grid import affine, grid, rounded
from tersor.quant.histogram import BINS, Histogram
from tersor.quant.ranges import METHODS, method


def seen(*parts: torch.Tensor) -> Histogram:
    made = Histogram()
    for part in parts:
        made.add(part)
    return made


def normal(count: int = 20_000, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def test_counts_are_numpys_however_the_values_come() -> None:
    value = normal() * torch.linspace(0.01, 4, 20_000)
    made = seen(*value.split(777))
    edges = (np.arange(2 * BINS + 1) - BINS) * made.width
    wanted, _ = np.histogram(value.double().numpy(), edges)
    assert np.abs(made.counts.numpy() - wanted).sum() <= 4  # values on an edge
    assert (made.low, made.high, made.seen) == (float(value.min()), float(value.max()), 20_000)
    assert float(made.counts.sum()) == 20_000


def test_what_is_not_finite_is_counted_apart() -> None:
    made = seen(torch.tensor([1.0, math.nan, math.inf, -2.0]), torch.tensor([math.nan]))
    assert (made.seen, made.bad, made.low, made.high) == (2, 3, -2.0, 1.0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "value", [torch.zeros(5), torch.full((5,), 3.0), torch.full((5,), -3.0), torch.tensor([1e-30])]
)
def test_constants_have_a_range_that_holds_them(name: str, value: torch.Tensor) -> None:
    low, high = method(name)(seen(value), grid("uint8"), False)
    scale, zero = affine(torch.tensor(low), torch.tensor(high), grid("uint8"), symmetric=False)
    made = rounded(value, scale, zero, grid("uint8"))
    torch.testing.assert_close(made, value, rtol=1e-3, atol=1e-29)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", ["int8", "int4", "uint8"])
def test_least_squared_error_beats_the_full_range_where_there_are_outliers(name: str, symmetric: bool) -> None:
    value = torch.cat([normal(), torch.tensor([40.0])])
    errors = {}
    for kind in ("min-max", "mse"):
        low, high = method(kind)(seen(value), grid(name), symmetric)
        scale, zero = affine(torch.tensor(low), torch.tensor(high), grid(name), symmetric=symmetric)
        errors[kind] = float((rounded(value, scale, zero, grid(name)) - value).square().sum())
    assert errors["mse"] <= errors["min-max"]
    if name == "int4":
        assert errors["mse"] < 0.7 * errors["min-max"]


def test_least_squared_error_is_that_of_brute_force() -> None:
    value, on = torch.cat([normal(), torch.tensor([12.0, -9.0])]), grid("int4")

    def error(end: float) -> float:
        scale, zero = affine(torch.tensor(-end), torch.tensor(end), on, symmetric=True)
        return float((rounded(value, scale, zero, on) - value).square().sum())

    low, high = method("mse")(seen(value), on, True)
    best = min(error(end) for end in np.linspace(0.2, 12, 200))
    assert error(max(-low, high)) <= 1.05 * best


def test_percentiles_are_the_quantiles() -> None:
    value = normal(200_000)
    low, high = method("percentile")(seen(value), grid("int8"), False)
    wanted = torch.tensor(np.quantile(value.numpy(), [0.00005, 0.99995]))
    torch.testing.assert_close(torch.tensor([low, high], dtype=wanted.dtype), wanted, rtol=0.02, atol=0.01)


def test_entropy_cuts_off_a_far_outlier_and_keeps_a_uniform_range() -> None:
    low, high = method("entropy")(seen(torch.cat([normal(), torch.tensor([100.0])])), grid("int8"), False)
    assert -6 < low < -2 and 2 < high < 12
    even = torch.linspace(-1, 1, 10_001)
    low, high = method("entropy")(seen(even), grid("int8"), False)
    assert low < -0.9 and high > 0.9


def test_an_unknown_method_has_its_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'entropy'"):
        method("entrpy")


def test_entropy_keeps_the_range_of_values_between_many_zeros() -> None:
    """Activations behind a relu: half are zero, and what is left is not cut to nothing."""
    low, high = method("entropy")(seen(normal(50_000).relu()), grid("uint8"), False)
    assert low == 0.0 and high > 1.8
