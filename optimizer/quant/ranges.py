"""Ranges of activations from their histograms: the ends outside of which values are clipped.

Each method is a function from a histogram and a grid to (low, high). Clipping a few large values buys a finer step for
all others; the methods differ in what they call a good bargain.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import TypeAlias

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.quant.grid import Grid, affine, rounded
from tersor.quant.histogram import Histogram

Method: TypeAlias = Callable[[Histogram, Grid, bool], tuple[float, float]]
"""From what was seen, the grid, and whether the range is to be symmetric, to the ends of the range."""

STEPS = 48
"""How many clipping points the searches look at."""


def min_max(seen: Histogram, on: Grid, symmetric: bool) -> tuple[float, float]:
    """All that was seen."""
    return seen.low, seen.high


def percentile(seen: Histogram, on: Grid, symmetric: bool, share: float = 0.9999) -> tuple[float, float]:
    """The ends that leave out ``1 - share`` of the values, half of them on each side."""
    if not seen.width:
        return seen.low, seen.high
    summed = seen.counts.cumsum(0) / max(seen.seen, 1)
    tail = (1 - share) / 2
    first, last = int((summed > tail).int().argmax()), int((summed >= 1 - tail).int().argmax())
    edges = seen.centres
    return max(seen.low, float(edges[first]) - seen.width / 2), min(seen.high, float(edges[last]) + seen.width / 2)


def mean_squared_error(seen: Histogram, on: Grid, symmetric: bool) -> tuple[float, float]:
    """The ends whose rounding and clipping have the least squared error (Choukroun et al., arXiv:1902.06822)."""
    return _search(seen, on, symmetric, lambda counts, values, made: float((counts * (values - made).square()).sum()))


def entropy(seen: Histogram, on: Grid, symmetric: bool) -> tuple[float, float]:
    """The ends for which the distribution of the rounded values tells least apart from that of the clipped ones.

    Kullback-Leibler divergence (Migacz, 8-bit inference with TensorRT, GTC 2017): the clipped distribution has what was
    cut off in its outermost bins; the rounded one spreads the values of a level evenly over the bins that it covers.
    Zeros are left out, as there: an activation's many exact zeros would outweigh everything else. So are ranges of
    fewer bins than levels, in which rounding cannot be seen.
    """

    def divergence(counts: Tensor, values: Tensor, made: Tensor) -> float:
        low, high = (float(end) for end in made.aminmax())
        inside = (values >= low) & (values <= high) & ((values < 0) | (values >= seen.width))
        if high - low < on.levels * seen.width or not bool(inside.any()):
            return float("inf")
        given, kept, level = counts[inside].clone(), counts[inside], made[inside]
        given[0] += counts[values < low].sum()
        given[-1] += counts[values > high].sum()
        _, place = level.unique(return_inverse=True)
        zeros = torch.zeros(int(place.max()) + 1, dtype=counts.dtype)
        even = zeros.index_add(0, place, kept) / zeros.index_add(0, place, torch.ones_like(kept))
        given, even = given / given.sum(), even[place] / kept.sum()
        return float((given * (given / even).log()).sum())

    return _search(seen, on, symmetric, divergence)


def _search(
    seen: Histogram, on: Grid, symmetric: bool, loss: Callable[[Tensor, Tensor, Tensor], float]
) -> tuple[float, float]:
    """The best of a row of clipped ranges: both ends shrink together, or where they need not, one after the other."""
    if not seen.width:
        return seen.low, seen.high
    used = seen.counts > 0
    counts, values = seen.counts[used], seen.centres[used].clamp(seen.low, seen.high)

    def cost(low: float, high: float) -> float:
        scale, zero = affine(torch.tensor(low), torch.tensor(high), on, symmetric=symmetric)
        return loss(counts, values, rounded(values, scale, zero, on))

    shares = torch.linspace(1.0, 1.0 / STEPS, STEPS).tolist()
    if symmetric:
        both = min(shares, key=lambda share: cost(seen.low * share, seen.high * share))
        return seen.low * both, seen.high * both
    lower = upper = 1.0
    for _ in range(2):
        upper = min(shares, key=lambda share: cost(seen.low * lower, seen.high * share))
        lower = min(shares, key=lambda share: cost(seen.low * share, seen.high * upper))
    return seen.low * lower, seen.high * upper


METHODS: dict[str, Method] = {
    "min-max": min_max,
    "percentile": percentile,
    "mse": mean_squared_error,
    "entropy": entropy,
}


def method(name: str) -> Method:
    """A way to find ranges by name; raises UsageError with the nearest.

    >>> method("mse") is mean_squared_error
    True
    """
    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(METHODS)}"
        raise UsageError(f"unknown calibration method {name!r}", hint)
    return METHODS[name]
