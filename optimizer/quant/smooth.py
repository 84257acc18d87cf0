"""SmoothQuant: factors and shifts for channels that move what is hard to quantize from activations to weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
        mean: of the values; needed for shifts only.
        used: share of values that are not zero, which every grid holds exactly; None counts all.
    """

    low: Tensor
    high: Tensor
    square: Tensor
    mean: Tensor | None = None
    used: Tensor | None = None


class Seen:
    """Running moments of each channel.

    >>> seen = Seen()
    >>> seen.add(torch.tensor([[1.0, -2.0], [3.0, 0.0]]))
    >>> seen.moments().high.tolist(), seen.moments().square.tolist()
    ([3.0, 0.0], [5.0, 2.0])
    """

    def __init__(self, dim: int = -1) -> None:
        self.dim, self.count = dim, 0
        self.low: Tensor | None = None
        self.high = self.total = self.square = self.used = torch.zeros(0)

    def add(self, value: Tensor) -> None:
        """Take in a tensor with the channels along ``dim``."""
        rows = value.detach().movedim(self.dim, -1).flatten(0, -2).double()
        if not len(rows):
            return
        low, high = rows.aminmax(dim=0)
        if self.low is None:
            self.low, self.high = low, high
            self.total = self.square = self.used = torch.zeros_like(low)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.total, self.square = self.total + rows.sum(0), self.square + rows.square().sum(0)
        self.used, self.count = self.used + (rows != 0).sum(0), self.count + len(rows)

    def moments(self) -> Moments:
        """What was seen; raises InputError where that is nothing."""
        if self.low is None:
            raise InputError("the calibration inputs hold no values", "give inputs that are not empty")
        count = self.count
        return Moments(self.low, self.high, self.square / count, self.total / count, self.used / count)


@dataclass(frozen=True, eq=False)
class Smoothing:
    """Factors for the channels.

    Attributes:
        scale: float64 [n], positive: activations are divided by it and weights multiplied.
        alpha: how much goes to the weights; None where leaving all as it is was best.
        before, after: squared error of the outputs predicted without and with it, per sample, summed over outputs.
        shift: float64 [n], subtracted from activations before the division; None where nothing is.
    """

    scale: Tensor
    alpha: float | None
    before: float
    after: float
    shift: Tensor | None = None


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


def centred(moments: Moments) -> tuple[Moments, Tensor]:
    """Moments of channels whose ranges are moved to lie around zero, and by how much each was moved, float64 [n].

    With ranges then evened out (alpha 1), all channels have one scale and one zero point, as those that follow a layer
    norm get in RepQ-ViT and RepQuant (Li et al., ICCV 2023; arXiv:2402.05628). What is subtracted comes out of the
    bias of the normalisation, and goes into those of the layers behind, times their weights.

    Raises:
        UsageError: the moments have no mean.

    >>> one = torch.ones(1, dtype=torch.float64)
    >>> moved, shift = centred(Moments(one, 3 * one, 5 * one, 2 * one))
    >>> moved.low.item(), moved.high.item(), moved.square.item(), shift.item()
    (-1.0, 1.0, 1.0, 2.0)
    """
    if moments.mean is None:
        raise UsageError("moments without a mean", "give the mean of each channel too")
    shift = (moments.low.double() + moments.high.double()) / 2
    low, high, mean = (item.double() - shift for item in (moments.low, moments.high, moments.mean))
    square = moments.square.double() - 2 * shift * moments.mean.double() + shift.square()
    return replace(moments, low=low, high=high, mean=mean, square=square.clamp_min(0), used=None), shift


def predicted(
    moments: Moments, weight: Tensor, scale: Tensor, activation: Grid, on: Grid, *, symmetric: bool = False
) -> float:
    """Squared error of the outputs when activations (one range) and weights (a range per output) are quantized.

    Rounding errors of activations count as uniform over a step, ``step^2 / 12``, or as the whole value where the step
    is so large that it is lost, and zeros have none; those of weights are what they are. Errors of different channels
    count as independent.

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
    share = 1.0 if moments.used is None else moments.used.to(square)
    noise = torch.minimum(step.square() / 12 * share, square)
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
    shift: bool = False,
) -> Smoothing:
    """Factors for a given alpha, or for that with the least error that the moments predict.

    Args:
        moments: of n channels.
        weight: [out, n, ...]; layers that read the same are put one below the other.
        activation, on: grids of activations and weights.
        alpha: from 0 to 1; None searches, and leaves all as it is where nothing is predicted to gain.
        symmetric: the range of activations; that of weights always is.
        shift: also try channels whose ranges lie around zero, see `centred`, and take that where it is better.

    Raises:
        UsageError, InputError: as `factors`.
    """
    reads, holds = grid(activation), grid(on)
    unit = torch.ones_like(factors(moments, weight, 0.5))
    before = predicted(moments, weight, unit, reads, holds, symmetric=symmetric)
    best = Smoothing(unit, None, before, before if alpha is None else math.inf)
    for seen, moved in [(moments, None), *([centred(moments)] if shift else [])]:
        for tried in [alpha] if alpha is not None else [step / STEPS for step in range(STEPS + 1)]:
            scale = factors(seen, weight, tried)
            after = predicted(seen, weight, scale, reads, holds, symmetric=symmetric)
            if after < best.after:
                best = Smoothing(scale, tried, before, after, moved)
    return best
