"""Classes of kernels with similar efficiency; a whole model's time is a weighted sum of its seconds in each class."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from tersor.cost.bound import Bound, aligned, bound
from tersor.cost.launches import Launch
from tersor.target import Target

KNOTS: dict[str, Sequence[float]] = {
    "linear": (5, 7, 9, 11),
    "pointwise_conv": (4, 6, 8, 10),
    "conv": (3, 5, 7, 9),
    "grouped_conv": (2, 4, 6),
    "depthwise": (9, 25, 49, 121),
    "bmm": (4, 6, 8),
    "attention": (5, 7, 9, 11),
    "norm": (5, 7, 9, 11),
}
"""Sizes, most as powers of two, between which the efficiency of a kind of kernel is interpolated."""
HIDDEN = "/hidden"
"""Suffix of the time that overlaps with a longer one: arithmetic behind traffic, or traffic behind arithmetic."""


def size(launch: Launch) -> float:
    """What the efficiency of a kernel depends on most: narrow channels, short sequences, wide windows."""
    if launch.kind == "depthwise":
        return float(launch.window)
    if launch.kind == "attention":
        return math.log2(max(1, launch.m))
    if launch.kind == "bmm":
        return math.log2(max(1, min(launch.m, launch.n, launch.k)))
    if launch.kind == "norm":
        return math.log2(max(1, launch.n))
    return math.log2(max(1, min(launch.n, launch.k // max(1, launch.window))))


def shares(launch: Launch) -> list[tuple[str, float]]:
    """The classes of a kernel with weights that add to one.

    >>> shares(Launch("linear", ("x",), "float16", m=4, n=64, k=64))
    [('linear@5', 0.5), ('linear@7', 0.5)]
    """
    if launch.kind not in KNOTS:
        return [(launch.kind, 1.0)]
    if launch.kind in ("conv", "pointwise_conv", "linear") and launch.dtype == "float16" and not aligned(launch):
        return [(f"{launch.kind}/unaligned", 1.0)]
    knots = KNOTS[launch.kind]
    where = min(max(size(launch), knots[0]), knots[-1])
    for low, high in itertools.pairwise(knots):
        if where <= high:
            part = (where - low) / (high - low)
            pairs = ((f"{launch.kind}@{low}", 1 - part), (f"{launch.kind}@{high}", part))
            return [(name, weight) for name, weight in pairs if weight > 0]
    return []


def side(launch: Launch, least: Bound) -> str:
    """Whether arithmetic or memory limits a layer; other kernels are always limited by memory."""
    return "" if launch.k == 0 else (":compute" if least.compute > least.memory else ":memory")


def seconds_by_class(launches: Iterable[Launch], target: Target) -> dict[str, float]:
    """Seconds of the roofline in each class, the time hidden behind it, and the number of launches."""
    found: dict[str, float] = defaultdict(float)
    for launch in launches:
        least = bound(launch, target)
        for name, weight in shares(launch):
            found[name + side(launch, least)] += weight * least.seconds
        if launch.k:
            found[launch.kind + HIDDEN] += min(least.compute, least.memory)
        found["launch"] += 1.0
    return dict(found)
