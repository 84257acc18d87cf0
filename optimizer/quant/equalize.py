"""Cross-layer equalisation: ranges of channels evened out between layers; and the bias that rounding a weight adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from tersor.errors import InputError, UsageError


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
