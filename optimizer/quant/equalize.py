"""Cross-layer equalisation: ranges of channels evened out between layers; and the bias that rounding a weight adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from tersor.errors import InputError, UsageError
from tersor.quant.grid import Grid, affine, rounded
from tersor.quant.smooth import Moments


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear map or a convolution.

    Attributes:
        weight: [out, in / groups, *kernel].
        bias: [out], or None.
        groups: of channels; a depthwise convolution has as many as outputs.
    """

    weight: Tensor
    bias: Tensor | None = None
    groups: int = 1

    @property
    def inputs(self) -> int:
        """Channels that it reads."""
        return self.groups * self.weight.shape[1]


def equalize(
    layers: Sequence[Layer], *, powers_of_two: bool = False, limit: float = math.inf
) -> tuple[list[Layer], list[Tensor]]:
    """Even out the ranges of the channels that layers in a row share (Nagel et al., ICCV 2019, arXiv:1906.04721).

    Channel i between two layers is divided by a positive factor in the first and multiplied by it in the second. That
    is exact, to rounding, where what lies between scales with its input: nothing, ReLU, leaky ReLU, pooling; with ReLU6
    and smooth activations it is not. Factors bring the range of each channel in every layer to the geometric mean over
    the layers: with two layers ``sqrt(r1 / r2)``, equation 11 of the paper.

    Args:
        layers: two, or more where those in between are depthwise with one output per channel.
        powers_of_two: round factors to powers of two, so that results keep all their bits.
        limit: no activation becomes larger or smaller by more than this factor. Weak weights with a large bias
            otherwise give activations a range that is worse than what the weights gain.

    Returns:
        The layers in the dtypes they came in, and what the activations behind each but the last are divided by,
        float64 [channels]. A channel with a weight of zero in any layer is left alone.

    Raises:
        UsageError: layers do not follow on each other, a weight is not finite, or ``limit`` is below 1.

    >>> first, second = Layer(torch.tensor([[8.0], [1.0]])), Layer(torch.tensor([[2.0, 1.0]]))
    >>> (first, second), factors = equalize([first, second])
    >>> first.weight.flatten().tolist(), second.weight.flatten().tolist(), factors[0].tolist()
    ([4.0, 1.0], [4.0, 1.0], [2.0, 1.0])
    """
    _check(layers, limit)
    ranges = torch.stack([_outputs(layer) for layer in layers[:-1]] + [_inputs(layers[-1])])
    live = (ranges > 0).all(0)
    logs = ranges.where(live, 1.0).log2()
    shrink = (logs - logs.mean(0)).cumsum(0)[:-1].clamp(-math.log2(limit), math.log2(limit))
    factors = list((shrink.round() if powers_of_two else shrink).exp2().unbind())
    made = [_divided(layer, factor) for layer, factor in zip(layers[:-1], factors, strict=True)] + [layers[-1]]
    return [made[0], *(_multiplied(layer, factor) for layer, factor in zip(made[1:], factors, strict=True))], factors


def _check(layers: Sequence[Layer], limit: float) -> None:
    if len(layers) < 2 or not limit >= 1:
        raise UsageError(
            f"{len(layers)} layers to equalise within a factor of {limit}", "give two or more, and 1 or more"
        )
    for layer in layers:
        if layer.weight.dim() < 2 or not layer.weight.numel() or layer.weight.shape[0] % layer.groups:
            raise UsageError(f"a weight of shape {list(layer.weight.shape)}", "give [out, in / groups, *kernel]")
        if not bool(layer.weight.isfinite().all()):
            raise UsageError("the weight has entries that are NaN or infinite", "leave this layer as it is")
    for before, after in pairwise(layers):
        if before.weight.shape[0] != after.inputs:
            raise UsageError(f"{before.weight.shape[0]} outputs before {after.inputs} inputs", "give layers in a row")
    for layer in layers[1:-1]:
        if not layer.groups == layer.weight.shape[0] == layer.inputs:
            raise UsageError(
                "a layer between the first and the last is not depthwise", "equalise its neighbours in pairs"
            )


def _outputs(layer: Layer) -> Tensor:
    """Largest absolute weight of each output, float64 [out]."""
    return layer.weight.detach().double().abs().flatten(1).amax(1)


def _inputs(layer: Layer) -> Tensor:
    """Largest absolute weight of each input, float64 [in]."""
    return _parts(layer.weight.detach().abs(), layer.groups).amax((1, 3)).flatten()


def _parts(weight: Tensor, groups: int) -> Tensor:
    """float64 [groups, out of a group, in of a group, points of the kernel]."""
    return weight.double().reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def _divided(layer: Layer, factor: Tensor) -> Layer:
    weight = (layer.weight.double() / factor.reshape(-1, *[1] * (layer.weight.dim() - 1))).to(layer.weight.dtype)
    bias = None if layer.bias is None else (layer.bias.double() / factor).to(layer.bias.dtype)
    return replace(layer, weight=weight, bias=bias)


def _multiplied(layer: Layer, factor: Tensor) -> Layer:
    weight = _parts(layer.weight, layer.groups) * factor.reshape(layer.groups, 1, -1, 1)
    return replace(layer, weight=weight.reshape(layer.weight.shape).to(layer.weight.dtype))


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads channels which are to be equalised.

    Attributes:
        layer: what it multiplies with.
        moments: of its input.
        places: the channel that each entry of its input is, int64 [in].
    """

    layer: Layer
    moments: Moments
    places: Tensor


def balanced(
    made: Tensor,
    readers: Sequence[Reader],
    activation: Grid,
    on: Grid,
    *,
    limit: float = 256.0,
    powers_of_two: bool = False,
) -> tuple[Tensor, float, float]:
    """What to divide channels by, so that the layers that read them lose least when they are quantized.

    Tried are equation 11 of arXiv:1906.04721, from the weights alone, and equation 4 of arXiv:2211.10438 with shares of
    0, 0.1 ... 1, from activations and weights; kept is what `lost` predicts least for.

    Args:
        made: largest absolute weight that makes each of n channels, [n].
        readers: of the channels.
        activation, on: grids of activations (one range) and weights (a range per output).
        limit: no channel becomes larger or smaller by more than this factor.
        powers_of_two: round factors to powers of two, which leave every bit of every result as it was.

    Returns:
        float64 [n], and what is lost without and with it; ones where nothing gains.
    """
    unit = torch.ones_like(made, dtype=torch.float64)
    seen, held = torch.zeros_like(unit), torch.zeros_like(unit)
    for item in readers:
        peak = torch.maximum(item.moments.low.abs(), item.moments.high.abs()).double()
        seen = seen.scatter_reduce(0, item.places, peak, "amax")
        held = held.scatter_reduce(0, item.places, _inputs(item.layer), "amax")
    live = (seen > 0) & (held > 0) & (made > 0)
    if not bool(live.any()):
        return unit, 0.0, 0.0
    first, read, second = (item.double().where(live, 1.0).log2() for item in (made, seen, held))
    tried = [(first - second) / 2, *(read * step / 10 - second * (1 - step / 10) for step in range(11))]
    before = lost(readers, unit, activation, on)
    best, after = unit, before
    for logs in tried:
        logs = (logs - logs[live].mean()).clamp(-math.log2(limit), math.log2(limit))
        factor = (logs.round() if powers_of_two else logs).exp2().where(live, 1.0)
        loss = lost(readers, factor, activation, on)
        if loss < after:
            best, after = factor, loss
    return best, before, after


def lost(readers: Sequence[Reader], factor: Tensor, activation: Grid, on: Grid) -> float:
    """Shares of the readers' output energy that quantizing them is predicted to add, summed.

    Rounding errors count as in `tersor.quant.smooth.predicted`, which knows no groups.
    """
    total = 0.0
    for item in readers:
        moments, weight = item.moments, _parts(item.layer.weight.detach(), item.layer.groups)
        scale = factor[item.places]
        step = affine((moments.low / scale).amin(), (moments.high / scale).amax(), activation, symmetric=False)[0]
        square = moments.square / scale.square()
        share = 1.0 if moments.used is None else moments.used
        noise = torch.minimum(step.double().square() / 12 * share, square)
        shape = (item.layer.groups, 1, -1, 1)
        moved = weight * scale.reshape(shape)
        peaks = moved.abs().amax((2, 3), keepdim=True)
        gap = rounded(moved, *affine(-peaks, peaks, on, symmetric=True), on) - moved
        added = (moved.square() * noise.reshape(shape) + gap.square() * square.reshape(shape)).sum()
        total += float(added / (weight.square() * moments.square.reshape(shape)).sum().clamp_min(1e-300))
    return total


def expected_shift(weight: Tensor, quantized: Tensor, mean: Tensor, *, groups: int = 1) -> Tensor:
    """What quantizing a weight adds to its outputs on average, ``E[(v - w) x]``; bias correction takes it off the bias.

    Section 4.2 of arXiv:1906.04721. With the mean of each channel a convolution counts as if it had no padding; with
    the mean of each point of its windows it is exact.

    Args:
        weight, quantized: [out, in / groups, *kernel].
        mean: of the inputs, [in] by channels, or [groups, m] by points of the windows with m = in / groups * kernel,
            laid out as the weight ([m] where there is one group).
        groups: of channels.

    Returns:
        float64 [out].

    Raises:
        UsageError: shapes do not fit.
        InputError: the mean is not finite.

    >>> expected_shift(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.5, 2.0]]), torch.tensor([4.0, 1.0])).tolist()
    [2.0]
    """
    if weight.shape != quantized.shape or weight.dim() < 2 or weight.shape[0] % groups:
        raise UsageError(f"weights of shapes {list(weight.shape)} and {list(quantized.shape)}", "give them the same")
    gap = _parts(quantized.double() - weight.double(), groups)
    by_points, by_channels = gap.flatten(2), gap.sum(3)
    used = by_channels if mean.numel() == groups * weight.shape[1] else by_points
    if mean.numel() != groups * used.shape[2]:
        raise UsageError(f"{mean.numel()} means of inputs", f"give {groups * weight.shape[1]}, one per channel")
    if not bool(mean.isfinite().all()):
        raise InputError("the mean of a layer's inputs is not finite", "look for NaN in the calibration inputs")
    return (used @ mean.to(gap.device).double().reshape(groups, -1, 1)).flatten()
