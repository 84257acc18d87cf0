"""SmoothQuant against equation 4, and its prediction against the error that quantizing really makes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.errors import InputError, UsageError
from tersor.quant.grid import affine, grid, rounded
from tersor.quant.smooth import STEPS, Moments, Seen, centred, factors, predicted, smooth

INT8 = grid("int8")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outliers(count: int, channels: int) -> Tensor:
    size = torch.ones(channels)
    size[3], size[8] = 60.0, 25.0
    return normal(count, channels, seed=1) * size


def moments(x: Tensor) -> Moments:
    return Moments(x.amin(0), x.amax(0), x.square().mean(0))


def measured(x: Tensor, weight: Tensor, scale: Tensor, activation: str, on: str, symmetric: bool) -> float:
    """Squared error of the outputs per sample, with both sides quantized."""
    x, moved = x / scale, weight * scale
    made = rounded(x, *affine(x.min(), x.max(), grid(activation), symmetric=symmetric), grid(activation))
    peak = moved.abs().amax(1, keepdim=True)
    kept = rounded(moved, *affine(-peak, peak, grid(on), symmetric=True), grid(on))
    return float((made @ kept.T - x @ moved.T).square().sum() / len(x))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.85, 1.0])
def test_equation_4(alpha: float) -> None:
    x, weight = outliers(50, 12), normal(7, 12)
    scale = factors(moments(x), weight, alpha)
    for j in range(12):
        wanted = float(x[:, j].abs().max()) ** alpha / float(weight[:, j].abs().max()) ** (1 - alpha)
        assert float(scale[j]) == pytest.approx(wanted)
    torch.testing.assert_close((x / scale) @ (weight * scale).T, x @ weight.T)


def test_a_convolution_has_a_factor_per_channel() -> None:
    x, weight = outliers(20, 12).T.reshape(1, 12, 20), normal(5, 12, 3)
    rows = x[0].T
    scale = factors(moments(rows), weight, 0.5)
    assert float(scale[3]) == pytest.approx((float(rows[:, 3].abs().max()) / float(weight[:, 3].abs().max())) ** 0.5)
    torch.testing.assert_close(F.conv1d(x / scale[:, None], weight * scale[:, None]), F.conv1d(x, weight))
    whole = predicted(moments(rows), weight, scale, INT8, INT8)
    flat = predicted(
        Moments(*(item.repeat_interleave(3) for item in (rows.amin(0), rows.amax(0), rows.square().mean(0)))),
        weight.flatten(1), scale.repeat_interleave(3), INT8, INT8,
    )  # fmt: skip
    assert whole == pytest.approx(flat)


@pytest.mark.parametrize(("activation", "on"), [("int8", "int8"), ("uint8", "int8"), ("int8", "int4")])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_prediction_is_near_the_truth(activation: str, on: str, symmetric: bool) -> None:
    x, weight = outliers(2000, 24), normal(40, 24)
    for alpha in (None, 0.2, 0.5, 0.8, 1.0):
        scale = torch.ones(24).double() if alpha is None else factors(moments(x), weight, alpha)
        wanted = measured(x, weight, scale, activation, on, symmetric)
        found = predicted(moments(x), weight, scale, grid(activation), grid(on), symmetric=symmetric)
        assert 0.8 < found / wanted < 1.25


def test_the_search_takes_the_best_and_it_pays() -> None:
    x, weight = outliers(2000, 24), normal(40, 24)
    found = smooth(moments(x), weight, symmetric=True)
    tried = [
        predicted(moments(x), weight, factors(moments(x), weight, step / STEPS), INT8, INT8, symmetric=True)
        for step in range(STEPS + 1)
    ]
    assert found.after == min(tried) and found.alpha == tried.index(min(tried)) / STEPS
    unit = torch.ones(24).double()
    assert measured(x, weight, found.scale, "int8", "int8", True) < 0.3 * measured(
        x, weight, unit, "int8", "int8", True
    )
    fixed = smooth(moments(x), weight, alpha=0.5, symmetric=True)
    assert fixed.alpha == 0.5 and torch.equal(fixed.scale, factors(moments(x), weight, 0.5))
    assert fixed.after >= found.after and fixed.before == found.before


def test_channels_without_activations_or_weights_are_left_alone() -> None:
    x, weight = outliers(50, 12), normal(7, 12)
    x[:, 2], weight[:, 5] = 0, 0
    scale = factors(moments(x), weight, 0.5)
    assert float(scale[2]) == float(scale[5]) == 1.0 and bool((scale > 0).all())
    none = smooth(moments(torch.zeros(4, 12)), weight)
    assert none.alpha is None and none.after == none.before == 0 and bool((none.scale == 1).all())
    assert smooth(moments(x), torch.zeros(7, 12)).alpha is None
    one = smooth(moments(x[:, :1]), weight[:, :1])
    assert one.after <= one.before


def test_what_is_refused() -> None:
    x, weight = outliers(50, 12), normal(7, 12)
    with pytest.raises(UsageError, match="alpha is 2"):
        smooth(moments(x), weight, alpha=2)
    with pytest.raises(UsageError, match=r"\[out, n, ...\] and \[n\]"):
        smooth(moments(x), weight[:, :5])
    x[3, 3] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        smooth(moments(x), weight)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    x = normal(6, 5, 12)
    for dim in (-1, 1):
        seen = Seen(dim)
        for part in x.split(2):
            seen.add(part)
        rows, found = x.movedim(dim, -1).flatten(0, 1), seen.moments()
        assert torch.equal(found.low, rows.amin(0)) and torch.equal(found.high, rows.amax(0))
        torch.testing.assert_close(found.square, rows.square().mean(0))
        torch.testing.assert_close(found.mean, rows.mean(0))
    with pytest.raises(InputError, match="hold no values"):
        Seen().moments()


def test_shifted_channels_lose_less_where_they_lie_off_zero() -> None:
    x, weight = normal(500, 12, seed=1) + 30 * normal(12), normal(7, 12)
    seen = Seen()
    seen.add(x)
    moved, shift = centred(seen.moments())
    torch.testing.assert_close(moved.square, (x - shift).square().mean(0))
    torch.testing.assert_close(moved.high, -moved.low)
    plain, found = (smooth(seen.moments(), weight, "uint8", shift=item) for item in (False, True))
    assert found.shift is not None and plain.shift is None and found.after < 0.2 * plain.after
    wanted = measured(x - shift, weight, found.scale, "uint8", "int8", False)
    assert 0.8 < found.after / wanted < 1.25
    with pytest.raises(UsageError, match="without a mean"):
        smooth(moments(x), weight, shift=True)
