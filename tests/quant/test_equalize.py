"""Equalisation keeps the function, and evens out ranges as the paper's formula says; the bias of rounding, on data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.errors import InputError, UsageError
from tersor.quant.equalize import Layer, Reader, balanced, equalize, expected_shift, lost
from tersor.quant.grid import affine, grid, rounded
from tersor.quant.smooth import Seen


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uneven(*shape: int, seed: int = 0) -> Tensor:
    """Weights whose outputs differ in size by up to a million."""
    size = torch.logspace(-3, 3, shape[0], dtype=torch.float64)
    return normal(*shape, seed=seed) * size.reshape(-1, *[1] * (len(shape) - 1))


def peaks(weight: Tensor, dim: int) -> Tensor:
    return weight.abs().movedim(dim, 0).flatten(1).amax(1)


def run(layers: list[Layer], x: Tensor) -> Tensor:
    """With ReLU in between."""
    for index, layer in enumerate(layers):
        if layer.weight.dim() == 2:
            x = F.linear(x, layer.weight, layer.bias)
        else:
            x = F.conv2d(x, layer.weight, layer.bias, padding="same", groups=layer.groups)
        x = x if index == len(layers) - 1 else x.relu()
    return x


PAIR = [Layer(uneven(6, 5), uneven(6)), Layer(normal(4, 6, seed=1), normal(4))]
CONVOLUTIONS = [Layer(uneven(6, 5, 3, 3), uneven(6)), Layer(normal(4, 6, 1, 1, seed=1))]
DEPTHWISE = [
    Layer(uneven(6, 5, 1, 1), uneven(6)), Layer(normal(6, 1, 3, 3, seed=1), normal(6), groups=6),
    Layer(normal(4, 6, 1, 1, seed=2), normal(4)),
]  # fmt: skip
GROUPED = [Layer(uneven(6, 5, 1, 1)), Layer(normal(9, 2, 3, 3, seed=1), normal(9), groups=3)]


@pytest.mark.parametrize("layers", [PAIR, CONVOLUTIONS, DEPTHWISE, GROUPED])
@pytest.mark.parametrize("powers_of_two", [True, False])
def test_the_function_stays(layers: list[Layer], powers_of_two: bool) -> None:
    x = normal(3, 5, seed=9) if layers[0].weight.dim() == 2 else normal(2, 5, 8, 8, seed=9)
    made, scales = equalize(layers, powers_of_two=powers_of_two)
    assert len(scales) == len(layers) - 1 and all(bool((scale > 0).all()) for scale in scales)
    before, after = run(layers, x), run(made, x)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-10)
    if powers_of_two:
        assert torch.equal(after, before)
        assert all(torch.equal(scale.log2(), scale.log2().round()) for scale in scales)


def test_the_pair_formula() -> None:
    made, (scale,) = equalize(PAIR)
    first, second = peaks(PAIR[0].weight, 0), peaks(PAIR[1].weight, 1)
    torch.testing.assert_close(scale, (first * second).sqrt() / second)
    torch.testing.assert_close(peaks(made[0].weight, 0), (first * second).sqrt())
    torch.testing.assert_close(peaks(made[1].weight, 1), (first * second).sqrt())
    assert made[0].bias is not None and PAIR[0].bias is not None
    torch.testing.assert_close(made[0].bias, PAIR[0].bias / scale)


def test_three_layers_have_the_same_ranges() -> None:
    made, _ = equalize(DEPTHWISE)
    wanted = (peaks(DEPTHWISE[0].weight, 0) * peaks(DEPTHWISE[1].weight, 0) * peaks(DEPTHWISE[2].weight, 1)) ** (1 / 3)
    for layer, dim in zip(made, (0, 0, 1), strict=True):
        torch.testing.assert_close(peaks(layer.weight, dim), wanted)


def test_channels_of_a_grouped_reader() -> None:
    made, _ = equalize(GROUPED)
    each = made[1].weight.reshape(3, 3, 2, 9).abs().amax((1, 3)).flatten()
    torch.testing.assert_close(each, peaks(made[0].weight, 0))


def test_one_scale_for_the_whole_weight_costs_less_afterwards() -> None:
    def error(layers: list[Layer], x: Tensor) -> float:
        made = []
        for layer in layers:
            scale, zero = affine(layer.weight.min(), layer.weight.max(), grid("int8"), symmetric=True)
            made.append(Layer(rounded(layer.weight, scale, zero, grid("int8")), layer.bias, layer.groups))
        return float((run(made, x) - wanted).square().mean())

    # Every hidden channel matters as much as any other, only its range differs.
    size = torch.logspace(-2, 2, 6, dtype=torch.float64)
    layers = [Layer(normal(6, 5) * size[:, None]), Layer(normal(4, 6, seed=1) / size)]
    x = normal(50, 5, seed=9)
    wanted = run(layers, x)
    assert error(equalize(layers)[0], x) < 1e-2 * error(layers, x)


def test_dead_channels_and_limits() -> None:
    first, second = uneven(6, 5), normal(4, 6, seed=1)
    first[1], second[:, 4] = 0, 0
    made, (scale,) = equalize([Layer(first, normal(6)), Layer(second)])
    assert float(scale[1]) == float(scale[4]) == 1.0 and bool(scale.isfinite().all())
    _, (held,) = equalize([Layer(first), Layer(second)], limit=2.0)
    torch.testing.assert_close(held, scale.clamp(0.5, 2.0))
    half, _ = equalize([Layer(first.half()), Layer(second.half())], limit=2.0)
    assert half[0].weight.dtype == torch.float16
    constant, (unit,) = equalize([Layer(torch.ones(3, 3)), Layer(torch.ones(3, 3))])
    assert bool((unit == 1).all()) and torch.equal(constant[0].weight, torch.ones(3, 3))
    assert torch.equal(made[1].weight[:, 4], second[:, 4])


def test_expected_shift_of_a_linear_layer_is_the_mean_error() -> None:
    weight, x = normal(4, 6), normal(200, 6, seed=1) + 2
    near = (weight * 4).round() / 4
    shift = expected_shift(weight, near, x.mean(0))
    torch.testing.assert_close(shift, (x @ near.T - x @ weight.T).mean(0))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_expected_shift_of_convolutions(groups: int) -> None:
    weight, x = normal(6, 6 // groups, 3, 3), normal(5, 6, 9, 9, seed=1) + 2
    near = (weight * 4).round() / 4
    error = F.conv2d(x, near, padding=1, groups=groups) - F.conv2d(x, weight, padding=1, groups=groups)
    patches = F.unfold(x, 3, padding=1).mean((0, 2))
    found = expected_shift(weight, near, patches.reshape(groups, -1), groups=groups)
    torch.testing.assert_close(found, error.mean((0, 2, 3)))
    by_channel = expected_shift(weight, near, x.mean((0, 2, 3)), groups=groups)
    inner = error[:, :, 1:-1, 1:-1].mean((0, 2, 3))
    torch.testing.assert_close(by_channel, inner, rtol=0.2, atol=0.05)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_the_prediction_of_what_a_reader_loses(groups: int, relu: bool) -> None:
    x, weight = normal(4, 6, 20, 20) * torch.logspace(-1, 1, 6).reshape(-1, 1, 1), normal(6, 6 // groups, 3, 3)
    x = x.relu() if relu else x
    seen = Seen(1)
    seen.add(x)
    reader = Reader(Layer(weight, None, groups), seen.moments(), torch.arange(6))
    factor, before, after = balanced(torch.ones(6), [reader], grid("uint8"), grid("int8"))
    for tried, told in ((torch.ones(6).double(), before), (factor, after)):
        scale = tried.reshape(-1, 1, 1)
        moved = weight * tried.reshape(groups, 1, -1).expand(-1, 6 // groups, -1).reshape(6, -1, 1, 1)
        ends = affine((x / scale).min(), (x / scale).max(), grid("uint8"), symmetric=False)
        read = rounded(x / scale, *ends, grid("uint8"))
        peak = moved.abs().amax((1, 2, 3), keepdim=True)
        held = rounded(moved, *affine(-peak, peak, grid("int8"), symmetric=True), grid("int8"))
        wanted, got = F.conv2d(x, weight, groups=groups), F.conv2d(read, held, groups=groups)
        added = (got - wanted).square().mean((0, 2, 3)).sum()
        found = float(added / (weight.square().sum((2, 3)).flatten() @ _energy(x, groups)))
        assert 0.7 < told / found < 1.4
    assert after < before and after == lost([reader], factor, grid("uint8"), grid("int8"))
    whole, _, worse = balanced(torch.ones(6), [reader], grid("uint8"), grid("int8"), powers_of_two=True)
    assert torch.equal(whole.log2(), whole.log2().round()) and worse < before


def _energy(x: Tensor, groups: int) -> Tensor:
    """The mean square of what each entry of a weight [6, 6 / groups] reads."""
    square = x.square().mean((0, 2, 3)).reshape(groups, 1, -1)
    return square.expand(-1, 6 // groups, -1).flatten()


def test_what_is_refused() -> None:
    one = Layer(torch.ones(3, 3))
    with pytest.raises(UsageError, match="two or more"):
        equalize([one])
    with pytest.raises(UsageError, match=r"within a factor of 0\.5"):
        equalize([one, one], limit=0.5)
    with pytest.raises(UsageError, match="3 outputs before 4 inputs"):
        equalize([one, Layer(torch.ones(3, 4))])
    with pytest.raises(UsageError, match="not depthwise"):
        equalize([one, one, one])
    with pytest.raises(UsageError, match="NaN or infinite"):
        equalize([Layer(torch.full((3, 3), torch.nan)), one])
    with pytest.raises(UsageError, match="give them the same"):
        expected_shift(torch.ones(2, 3), torch.ones(2, 4), torch.ones(3))
    with pytest.raises(UsageError, match="one per channel"):
        expected_shift(torch.ones(2, 3), torch.ones(2, 3), torch.ones(4))
    with pytest.raises(InputError, match="not finite"):
        expected_shift(torch.ones(2, 3), torch.ones(2, 3), torch.full((3,), torch.inf))
