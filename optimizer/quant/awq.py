"""AWQ: scales of input channels, and clipped ranges of weights, that cost the outputs least; found on a Gram matrix.

Weights and Gram matrices are as in `tersor.quant.levels`. Layers that read the same inputs are put one below the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.factor.least_squares import residual
from tersor.quant.grid import Grid, affine, grid, grouped, rounded
from tersor.quant.levels import checked, min_max, nearest, wide

STEPS = 20
"""Exponents other than zero that the search tries (the paper's number), and shares of a range that clipping tries."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """Factors for the channels of a weight's input.

    Attributes:
        scale: float64 [..., channels], positive: weights are multiplied by it and inputs divided.
        alpha: the exponent; 0 leaves all as it is.
        before, after: squared error of the outputs without and with it, summed over outputs.
    """

    scale: Tensor
    alpha: float
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class Clipping:
    """Ranges of a weight.

    Attributes:
        scale, zero: [..., out, n] for groups of ``in / n`` inputs.
        before, after: squared error of each output with the whole and with the clipped range, float64 [..., out].
    """

    scale: Tensor
    zero: Tensor
    before: Tensor
    after: Tensor


def awq(
    weight: Tensor,
    gram: Tensor,
    on: str | Grid,
    *,
    magnitude: Tensor | None = None,
    group: int | None = None,
    symmetric: bool = True,
) -> Scaling:
    """Give channels with large inputs a finer step (Lin et al., MLSys 2024, arXiv:2306.00978).

    The scale is ``magnitude ** alpha``; of a row of alphas between 0 and 1 that with the least error is taken. The
    error is that of the outputs under the Gram matrix, so the model does not run.

    Args:
        weight: [..., out, in].
        gram: [..., in, in].
        on: the grid.
        magnitude: mean of |x| for each channel, [..., channels], of ``in / channels`` neighbouring inputs each, as the
            points of a convolution's window are; None takes root mean squares off the Gram matrix. A channel whose
            inputs were always zero keeps its weights.
        group: inputs that share a scale on the grid; None is one scale per output.
        symmetric: as in `affine`.

    Raises:
        UsageError: shapes do not fit, or the weight is not finite.
        InputError: the Gram matrix is not finite.

    >>> gram = torch.diag(torch.tensor([100.0, 1.0, 1.0]))
    >>> found = awq(torch.tensor([[0.11, 1.0, 0.4]]), gram, "int4")
    >>> found.after < found.before
    True
    """
    on, (real, gram) = grid(on), checked(weight, gram)
    given = gram.diagonal(dim1=-2, dim2=-1).sqrt() if magnitude is None else magnitude.to(real.device).double()
    _check_magnitude(given, real)

    def cost(factors: Tensor) -> float:
        spread = wide(factors, real.shape[-1])[..., None, :]
        made = nearest(real * spread, *min_max(real * spread, on, group=group, symmetric=symmetric), on)
        return float(residual(real, made.values.double() / spread, gram).sum())

    best = before = cost(torch.ones_like(given))
    scale, chosen = torch.ones_like(given), 0.0
    for step in range(1, STEPS + 1):
        tried = _power(given, step / STEPS)
        after = cost(tried)
        if after < best:
            best, scale, chosen = after, tried, step / STEPS
    return Scaling(scale, chosen, before, best)


def _check_magnitude(magnitude: Tensor, weight: Tensor) -> None:
    inputs, channels = weight.shape[-1], magnitude.shape[-1] if magnitude.dim() else 0
    if not channels or inputs % channels or magnitude.shape[:-1] != weight.shape[:-2]:
        raise UsageError(f"magnitudes of shape {list(magnitude.shape)} for {inputs} inputs", "give one per channel")
    if not bool((magnitude.isfinite() & (magnitude >= 0)).all()):
        raise UsageError("magnitudes of inputs are negative or not finite", "give the mean of |x| of each channel")


def _power(magnitude: Tensor, alpha: float) -> Tensor:
    """``magnitude ** alpha`` with extremes that multiply to one; 1 where the magnitude is 0."""
    live = magnitude > 0
    raised = magnitude.where(live, 1.0).pow(alpha)
    high = raised.masked_fill(~live, 0).amax(-1, keepdim=True)
    low = raised.masked_fill(~live, torch.inf).amin(-1, keepdim=True)
    return (raised / (high * low).sqrt()).where(live, 1.0)


def clip(
    weight: Tensor,
    gram: Tensor,
    on: str | Grid,
    *,
    group: int | None = None,
    symmetric: bool = True,
    least: float = 0.5,
) -> Clipping:
    """Narrow the range of each output, or group of inputs, as far as the error of the output falls.

    Groups take their turn from the first to the last, each with all others as they are, so that errors of different
    groups may cancel and no step raises the error. Nothing is clipped where the inputs were always zero.

    Args:
        weight: [..., out, in].
        gram: [..., in, in].
        on: the grid.
        group: inputs that share a scale; None is one scale per output.
        symmetric: as in `affine`.
        least: the smallest share of the whole range that is tried.

    Raises:
        UsageError: shapes do not fit, the weight is not finite, or ``least`` is no share.
        InputError: the Gram matrix is not finite.
    """
    if not 0 < least <= 1:
        raise UsageError(f"the smallest share of a range is {least}", "give a number above 0 and at most 1")
    on, (real, gram) = grid(on), checked(weight, gram)
    size = real.shape[-1] if group is None else group
    scale, zero = min_max(real, on, group=group, symmetric=symmetric)
    gap = nearest(real, scale, zero, on).values - real
    before = residual(gap, torch.zeros_like(gap), gram)
    low, high = grouped(real, size).aminmax(dim=-1)
    for index in range(real.shape[-1] // size):
        part = slice(index * size, (index + 1) * size)
        inner = gram[..., part, part]
        pull = 2 * (gap @ gram[..., part] - gap[..., part] @ inner)
        best = _cost(gap[..., part], inner, pull)
        for share in torch.linspace(1.0, least, STEPS + 1).tolist()[1:]:
            ends = (low[..., index] * share, high[..., index] * share)
            step, origin = affine(*ends, on, symmetric=symmetric)
            tried = rounded(real[..., part], step[..., None], origin[..., None], on) - real[..., part]
            cost = _cost(tried, inner, pull)
            wins = cost < best
            best = torch.where(wins, cost, best)
            gap[..., part] = torch.where(wins[..., None], tried, gap[..., part])
            scale[..., index] = torch.where(wins, step, scale[..., index])
            zero[..., index] = torch.where(wins, origin, zero[..., index])
    return Clipping(scale, zero, before, residual(gap, torch.zeros_like(gap), gram))


def _cost(gap: Tensor, inner: Tensor, pull: Tensor) -> Tensor:
    """The part of each output's error that depends on one group: its own, and its product with the others'."""
    return ((gap @ inner + pull) * gap).sum(-1)
