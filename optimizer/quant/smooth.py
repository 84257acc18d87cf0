"""SmoothQuant: factors for channels that move what is hard to quantize from activations to weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.errors import InputError, UsageError
from tersor.quant.grid import Grid, affine, grid, rounded, spread

STEPS = 20
"""Steps between alpha 0 and 1 that the search tries."""


@dataclass(frozen=True, eq=False)
class Moments:
    """What a layer reads in each of its n channels; all float64 of shape [n].

    Attributes:
        low, high: the least and the largest value.
        square: mean of the square.
    """

    low: Tensor
    high: Tensor
    square: Tensor


@dataclass(frozen=True, eq=False)
class Smoothing:
    """Factors for the channels.

    Attributes:
        scale: float64 [n], positive: activations are divided by it and weights multiplied.
        alpha: how much goes to the weights; None where leaving all as it is was best.
        before, after: squared error of the outputs predicted without and with it, per sample, summed over outputs.
    """

    scale: Tensor
    alpha: float | None
    before: float
    after: float


def factors(moments: Moments, weight: Tensor, alpha: float) -> Tensor:
    """``max|x| ** alpha / max|w| ** (1 - alpha)`` of each channel (Xiao et al., ICML 2023, arXiv:2211.10438, eq. 4).

    Args:
        moments: of n channels.
        weight: [out, n, ...]; layers that read the same are put one below the other.
        alpha: from 0, which evens out the weights, to 1, which evens out the activations.

    Returns:
        float64 [n]; 1 where a channel's activations or weights are all zero.

    Raises:
        UsageError: shapes do not fit, the weight is not finite, or alpha is outside of 0 to 1.
        InputError: the moments are not finite.

    >>> one = torch.ones(2)
    >>> factors(Moments(-one, torch.tensor([4.0, 1.0]), one), torch.tensor([[1.0, 1.0]]), 0.5).tolist()
    [2.0, 1.0]
    """
    _check(moments, weight)
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is {alpha}", "give a number from 0 to 1, such as 0.5")
    read = torch.maximum(moments.low.abs(), moments.high.abs()).double().to(weight.device)
    held = weight.detach().double().abs().movedim(1, 0).flatten(1).amax(1)
    live = (read > 0) & (held > 0)
    return torch.where(live, read.where(live, 1.0).pow(alpha) / held.where(live, 1.0).pow(1 - alpha), 1.0)


def _check(moments: Moments, weight: Tensor) -> None:
    every = (moments.low, moments.high, moments.square)
    if weight.dim() < 2 or not weight.numel() or any(tuple(m.shape) != (weight.shape[1],) for m in every):
        shapes = ", ".join(str(list(m.shape)) for m in every)
        raise UsageError(
            f"a weight of shape {list(weight.shape)} and moments of {shapes}", "give [out, n, ...] and [n]"
        )
    if not bool(weight.isfinite().all()):
        raise UsageError("the weight has entries that are NaN or infinite", "leave this layer as it is")
    if not all(bool(m.isfinite().all()) for m in every):
        raise InputError("moments of a layer's inputs are not finite", "look for NaN in the calibration inputs")


def predicted(
    moments: Moments, weight: Tensor, scale: Tensor, activation: Grid, on: Grid, *, symmetric: bool = False
) -> float:
    """Squared error of the outputs when activations (one range) and weights (a range per output) are quantized.

    Rounding errors of activations count as uniform over a step, ``step^2 / 12``, or as the whole value where the step
    is so large that it is lost; those of weights are what they are. Errors of different channels count as independent.

    Args:
        moments: of n channels.
        weight: [out, n, ...].
        scale: [n], what activations are divided by.
        activation, on: grids of activations and weights.
        symmetric: the range of activations; that of weights always is.
    """
    scale = scale.double().to(weight.device)
    low, high, square = (item.double().to(weight.device) for item in (moments.low, moments.high, moments.square))
    step = affine((low / scale).amin(), (high / scale).amax(), activation, symmetric=symmetric)[0].double()
    square = square / scale.square()
    noise = torch.minimum(step.square() / 12, square)
    moved = weight.detach().double() * spread(scale, weight, 1)
    peaks = moved.flatten(1).abs().amax(1)
    size, zero = affine(-peaks, peaks, on, symmetric=True)
    gap = rounded(moved, spread(size, moved, 0), spread(zero, moved, 0), on) - moved
    return float((moved.square() * spread(noise, moved, 1) + gap.square() * spread(square, moved, 1)).sum())


def smooth(
    moments: Moments,
    weight: Tensor,
    activation: str | Grid = "int8",
    on: str | Grid = "int8",
    *,
    alpha: float | None = None,
    symmetric: bool = False,
) -> Smoothing:
    """Factors for a given alpha, or for that with the least error that the moments predict.

    Args:
        moments: of n channels.
        weight: [out, n, ...]; layers that read the same are put one below the other.
        activation, on: grids of activations and weights.
        alpha: from 0 to 1; None searches, and leaves all as it is where nothing is predicted to gain.
        symmetric: the range of activations; that of weights always is.

    Raises:
        UsageError, InputError: as `factors`.
    """
    reads, holds = grid(activation), grid(on)
    unit = torch.ones_like(factors(moments, weight, 0.5))
    before = predicted(moments, weight, unit, reads, holds, symmetric=symmetric)
    best = Smoothing(unit, None, before, before)
    for tried in [alpha] if alpha is not None else [step / STEPS for step in range(STEPS + 1)]:
        scale = factors(moments, weight, tried)
        after = predicted(moments, weight, scale, reads, holds, symmetric=symmetric)
        if alpha is not None or after < best.after:
            best = Smoothing(scale, tried, before, after)
    return best
