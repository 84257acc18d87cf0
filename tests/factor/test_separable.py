"""Depthwise filters and a pointwise mix: exact with enough terms, the best with fewer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.factor.gradients import flat_metric, metric
from tersor.factor.separable import Separated, channel_roots, patch_moments, separate, spectrum

FLAT = flat_metric(8)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weight_of(made: Separated, inputs: int) -> Tensor:
    """The dense weight that the two convolutions have."""
    filters = made.depthwise.unflatten(0, (inputs, -1))[:, :, 0]
    return torch.einsum("oit,it...->oi...", made.pointwise.unflatten(1, (inputs, -1)), filters)


@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (4, 6, 3, 3), (8, 6, 5), (8, 3, 2, 2, 2)])
def test_as_many_terms_as_taps_or_outputs_are_exact(shape: tuple[int, ...]) -> None:
    weight = normal(*shape)
    taps = weight[0, 0].numel()
    made = separate(weight, channel_roots(None, shape[1], taps), flat_metric(shape[0]), min(taps, shape[0]))
    torch.testing.assert_close(weight_of(made, shape[1]), weight)


def test_the_two_convolutions_are_the_weight() -> None:
    x, made = normal(2, 6, 9, 7, seed=1), separate(normal(8, 6, 3, 3), channel_roots(None, 6, 9), FLAT, 2)
    chain = F.conv2d(F.conv2d(x, made.depthwise, stride=2, padding=1, groups=6), made.pointwise[..., None, None])
    torch.testing.assert_close(chain, F.conv2d(x, weight_of(made, 6), stride=2, padding=1))


def test_the_error_is_the_rest_of_the_spectrum_and_the_least_for_these_filters() -> None:
    weight, roots = normal(8, 6, 3, 3), channel_roots(None, 6, 9)
    made = separate(weight, roots, FLAT, 2)
    error = float((weight_of(made, 6) - weight).square().sum())
    assert error == pytest.approx(float(spectrum(weight, roots, FLAT)[2:].sum()))
    for seed in range(10):
        filters = torch.linalg.qr(normal(6, 9, 2, seed=seed)).Q
        mix = torch.einsum("oik,ikt->oit", weight.flatten(2), filters)
        other = torch.einsum("oit,ikt->oik", mix, filters)
        assert error < float((other - weight.flatten(2)).square().sum())


def test_patches_and_metric_lower_the_error_that_they_measure() -> None:
    weight = normal(8, 6, 3, 3)
    x = F.avg_pool2d(normal(16, 6, 20, 20, seed=1), 3, stride=1) + 0.05 * normal(16, 6, 18, 18, seed=2)
    columns = F.unfold(x, 3).unflatten(1, (6, 9))
    roots = channel_roots(patch_moments(columns), 6, 9)
    mixing = normal(8, 8, seed=3) * torch.logspace(0, -2, 8, dtype=torch.float64)
    m = metric(mixing @ mixing.T)

    def error(made: Separated) -> float:
        gap = F.conv2d(x, weight_of(made, 6) - weight)
        return float(m.into(gap.movedim(1, 0).flatten(1)).square().sum())

    assert error(separate(weight, roots, FLAT, 2)) < error(separate(weight, channel_roots(None, 6, 9), FLAT, 2))
    assert error(separate(weight, roots, m, 2)) < error(separate(weight, roots, FLAT, 2))


def test_moments_of_patches() -> None:
    x = normal(3, 2, 5, 5)
    columns = F.unfold(x, 3).unflatten(1, (2, 9))
    rows = columns[:, 1].movedim(1, 2).flatten(0, 1)
    torch.testing.assert_close(patch_moments(columns)[1], rows.T @ rows / len(rows))
