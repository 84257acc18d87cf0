"""How long operators take on the machine that was measured: a few curves per kind of kernel.

The time of a kernel is its work at measured peak rates, times the exponential of a sum of piecewise-linear curves in
the logarithms of its sizes, plus what starting it costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tersor.cost import context
from tersor.cost.context import BlockRow
from tersor.cost.fusion import CONVOLUTIONS
from tersor.cost.launches import Launch
from tersor.cost.regressors import evaluate
from tersor.target import Target

Numbers = NDArray[np.float64]
FEATURES = (
    "rows", "columns", "contracted", "window", "groups", "stride", "microseconds at peak rates", "channels by fours",
)  # fmt: skip
"""What the curves are drawn over: logarithms, but for the last, which is 1 where channels are no multiple of four."""
_KNOTS = 4
_STRENGTH = 0.3
_OUTLIER = 0.3
"""Logarithm of the ratio from which a measurement counts less."""
_LIKE = {
    "batch_norm": "elementwise", "bmm": "linear", "reduction": "elementwise", "softmax": "norm", "norm": "softmax",
    "pool": "elementwise", "permute": "move", "move": "elementwise", "grouped_conv": "conv", "pointwise_conv": "conv",
    "depthwise": "elementwise", "skip_norm": "norm", "conv": "pointwise_conv", "attention": "bmm", "convert": "move",
    "dequantize": "elementwise",
}  # fmt: skip
"""Whose curves hold for a kind that was not measured."""


@dataclass(frozen=True)
class Row:
    """One measured operator: its work, its seconds, and whether its weights stay in the cache between two runs."""

    launch: Launch
    seconds: float
    resident: bool = True


def base(launch: Launch, target: Target, resident: bool) -> float:
    """Seconds of a kernel's arithmetic and traffic one after the other at peak rates, channels filled up to blocks."""
    near = target.cache_bandwidth or target.bandwidth
    far = target.bandwidth
    traffic = launch.moved / (near if launch.moved < target.cache / 2 else far)
    return (
        filled(launch, target).flops / target.rate(launch.dtype)
        + traffic
        + launch.weights / (near if resident else far)
    )


def filled(launch: Launch, target: Target) -> Launch:
    """A convolution with its channels rounded up to those that kernels work on at once; inputs below that stay."""
    if launch.kind not in CONVOLUTIONS or launch.k == 0:
        return launch
    block = target.multiple
    if launch.kind == "depthwise":
        groups = -(-launch.groups // block) * block
        return replace(launch, groups=groups, flops=launch.flops * groups / launch.groups)
    channels = launch.k // launch.window
    wide = -(-launch.n // block) * block if launch.groups == 1 else launch.n
    deep = -(-channels // block) * block if launch.groups == 1 and channels > block else channels
    ratio = wide * deep / max(1, launch.n * channels)
    return replace(launch, n=wide, k=deep * launch.window, flops=launch.flops * ratio)


def features(launch: Launch, target: Target, resident: bool) -> list[float]:
    """The numbers that `FEATURES` names."""
    full = filled(launch, target)
    deep = max(1, full.k // full.window) if full.k else 1
    sizes = (full.m, full.n, deep, full.window, full.groups, full.stride)
    channels = launch.groups if launch.kind == "depthwise" else deep_of(launch)
    odd = float(launch.kind in CONVOLUTIONS and channels % 4 != 0 and channels > 3)
    return [*(math.log(max(1, size)) for size in sizes), math.log(base(launch, target, resident) * 1e6 + 1e-3), odd]


def deep_of(launch: Launch) -> int:
    """Channels that a convolution contracts."""
    return launch.k // launch.window


def fit(rows: Sequence[Row], blocks: Sequence[BlockRow], call: float, wake: float, target: Target) -> dict[str, Any]:
    """Curves of each kind of kernel, what it costs beside others, and the interval.

    Args:
        rows: operators that were measured by themselves.
        blocks: that were measured as a whole.
        call: seconds that a run takes in which next to nothing is computed.
        wake: seconds that a run takes longer once threads share the work.
        target: the machine, see `raised`.
    """
    start = min((row.seconds for row in rows), default=1e-6)
    made: dict[str, Any] = {"call": max(0.0, call - 2 * start), "wake": wake, "start": start, "function": 0.0}
    made |= {"context": {}, "kinds": {}}
    plain = [row for row in rows if not row.launch.functions]
    for kind in sorted({_name(row.launch) for row in plain}):
        chosen = [row for row in plain if _name(row.launch) == kind]
        made["kinds"][kind] = _curves(chosen, start, target)
    made["function"] = _per_function([row for row in rows if row.launch.functions], made, target)
    alone = [[seconds(one, target, made, row.resident) for one in row.launches] for row in blocks]
    made["context"] = context.fit(blocks, alone, target.bandwidth)
    ratios = [row.seconds / seconds(row.launch, target, made, row.resident) for row in rows]
    made["interval"] = [float(np.quantile(ratios, 0.05)), float(np.quantile(ratios, 0.95))] if ratios else [0.6, 1.7]
    return made


def seconds(launch: Launch, target: Target, correction: Mapping[str, Any], resident: bool) -> float:
    """Seconds of one kernel, the cost of starting it included."""
    model = _model(launch, correction["kinds"])
    factor = math.exp(float(evaluate(model, [features(launch, target, resident)])[0])) if model else 1.6
    work = base(launch, target, resident) * factor
    alone = float(correction["start"]) + work + float(correction["function"]) * launch.functions
    return alone + context.seconds(launch, correction["context"], alone, resident)


def raised(target: Target, rows: Sequence[Row]) -> Target:
    """The target with rates that no measured operator exceeds, so that a bound stays a bound."""
    rates = dict(target.rates)
    for row in rows:
        if row.launch.flops:
            rates[row.launch.dtype] = max(rates.get(row.launch.dtype, 0.0), row.launch.flops / row.seconds)
    near = [row.launch.moved / row.seconds for row in rows if row.launch.moved < target.cache / 2 and not row.launch.k]
    return replace(target, rates=rates, cache_bandwidth=max([target.cache_bandwidth, target.bandwidth, *near]))


def _name(launch: Launch) -> str:
    return f"{launch.kind} int8" if launch.dtype == "int8" and launch.k else launch.kind


def _model(launch: Launch, kinds: Mapping[str, Any]) -> Mapping[str, Any] | None:
    name = _name(launch)
    if name in kinds:
        found: Mapping[str, Any] = kinds[name]
        return found
    seen: set[str] = set()
    kind = launch.kind
    while kind not in kinds and kind in _LIKE and kind not in seen:
        seen.add(kind)
        kind = _LIKE[kind]
    return kinds.get(f"{kind} int8" if launch.dtype == "int8" and f"{kind} int8" in kinds else kind)


def _curves(rows: Sequence[Row], start: float, target: Target) -> dict[str, Any]:
    """Ridge regression on hat functions of each feature; outliers count less."""
    given = np.array([features(row.launch, target, row.resident) for row in rows])
    least = np.array([base(row.launch, target, row.resident) for row in rows])
    taken = np.array([row.seconds for row in rows]) - start
    wanted = np.log(np.maximum(taken, 0.2 * least) / least)
    places = [np.linspace(column.min(), column.max() + 1e-9, _KNOTS) for column in given.T]
    varied = [index for index, column in enumerate(given.T) if np.ptp(column) > 1e-6]
    hats = (
        np.hstack([_hats(given[:, index], places[index]) for index in varied]) if varied else np.zeros((len(rows), 0))
    )
    weights = np.clip(taken / np.array([row.seconds for row in rows]), 0.1, 1.0)
    begin, values = _ridge(hats, wanted, weights)
    values = values.reshape(-1, _KNOTS)
    curves = [{"knots": [0.0, 1.0], "values": [0.0, 0.0]} for _ in FEATURES]
    for index, row in zip(varied, values, strict=True):
        curves[index] = {"knots": places[index].tolist(), "values": row.tolist()}
    return {"form": "curves", "start": begin, "curves": curves, "rows": len(rows)}


def _hats(column: Numbers, place: Numbers) -> Numbers:
    return np.stack([np.interp(column, place, row) for row in np.eye(len(place))], axis=1)


def _ridge(hats: Numbers, wanted: Numbers, weights: Numbers) -> tuple[float, Numbers]:
    """Intercept and values at the knots; the intercept is not drawn to zero."""
    begin, current = float(np.average(wanted, weights=weights)), weights
    values: Numbers = np.zeros(hats.shape[1])
    for _ in range(6):
        begin = float(np.average(wanted - hats @ values, weights=current))
        left = hats.T @ (current[:, None] * hats) + _STRENGTH * np.eye(hats.shape[1])
        values = np.asarray(np.linalg.solve(left, hats.T @ (current * (wanted - begin))), dtype=np.float64)
        current = weights / np.maximum(np.abs(wanted - begin - hats @ values) / _OUTLIER, 1.0)
    return begin, values


def _per_function(rows: Sequence[Row], made: Mapping[str, Any], target: Target) -> float:
    large = sorted(rows, key=lambda row: -row.launch.functions)[:4]
    left = [
        (row.seconds - seconds(replace(row.launch, functions=0.0), target, made, True)) / row.launch.functions
        for row in large
    ]
    return max(0.0, median(left)) if left else 0.0
