"""How much longer than its roofline a kernel takes, from the coefficients that were fitted to measurements."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from tersor.cost import correction
from tersor.cost.bound import Bound, bound
from tersor.cost.classes import HIDDEN, shares, side
from tersor.cost.features import features, reachable, room
from tersor.cost.launches import FUSION, Fusion, Launch
from tersor.cost.regressors import evaluate
from tersor.target import Target

_UNKNOWN = 1.6
"""Slowdown of a class of which no measured model says anything."""
_SHARED = 50e-6
"""Seconds of work from which a run is taken to wake all threads."""
_SPARSE_SHARE = 0.7
"""Share of the sparse peak's gain that kernels are assumed to reach; an assumption, not fitted."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of one kernel, between which it lies nine times out of ten, and what it cannot be below."""

    seconds: float
    low: float
    high: float
    least: float


def regime(target: Target, backend: str) -> str:
    """Which fit holds: "cuda eager", "cuda compiled" or "cpu compiled"."""
    fused = FUSION.get(backend, Fusion()).chain
    if target.device == "cpu":
        return "cpu compiled"
    return "cuda compiled" if fused else "cuda eager"


def estimate(launch: Launch, target: Target, backend: str = "eager", resident: bool = False) -> Estimate:
    """Time of one kernel; never below its roofline. The cost of launching it comes on top, see `launch_seconds`.

    Args:
        launch: the kernel.
        target: the device; what was measured on it operator by operator comes first.
        backend: that runs it.
        resident: whether weights stay in the last-level cache between two runs.
    """
    least = bound(launch, target, resident)
    if fitted := target.corrections.get(backend):
        return _corrected(launch, target, fitted, resident, least)
    model = _kernels().get(room(launch.kind)) if _is_plain_gpu(launch, target) else None
    if model is not None and launch.bytes > 0:
        seconds, interval = _by_kernel(launch, target, model), model["interval"]
    else:
        fitted = _models().get(regime(target, backend), {})
        seconds, interval = _by_class(launch, least, fitted.get("slowdown", {})), fitted.get("interval", (0.6, 1.7))
    seconds = max(least.seconds, seconds * _sparse_penalty(launch, target))
    return Estimate(seconds, max(least.seconds, seconds * interval[0]), seconds * interval[1], least.seconds)


def _corrected(launch: Launch, target: Target, fitted: Mapping[str, Any], resident: bool, least: Bound) -> Estimate:
    start = float(fitted["start"])
    found = max(least.seconds, correction.seconds(launch, target, fitted, resident) - start)
    low, high = fitted["interval"]
    return Estimate(found, max(least.seconds, low * found), max(found, high * found), least.seconds)


def launch_seconds(target: Target, backend: str) -> float:
    """What starting one kernel costs: fitted, but at most the target's own figure where it states one."""
    if measured := target.corrections.get(backend):
        return float(measured["start"])
    fitted = float(_models().get(regime(target, backend), {}).get("slowdown", {}).get("launch", 0.0))
    return max(fitted, target.launch) if target.device == "cuda" else (target.launch or fitted)


def call_seconds(target: Target, backend: str, computed: float) -> float:
    """What one run costs beside what it computes: the call, and threads that have to wake; 0 if that is not measured.

    Args:
        target: the device.
        backend: that runs it.
        computed: seconds of all launches; threads share hardly anything of a run of microseconds.
    """
    fitted = target.corrections.get(backend)
    if not fitted:
        return 0.0
    return float(fitted["call"]) + float(fitted["wake"]) * min(1.0, computed / _SHARED)


def whole_interval(target: Target, backend: str, launches: list[Launch]) -> tuple[float, float]:
    """Factors on the predicted time of a whole model between which it lies nine times out of ten."""
    measured = "cpu measured" if target.corrections.get(backend) else regime(target, backend)
    fitted = _models().get(measured, {})
    low, high = fitted.get("interval", (0.6, 1.7))
    return (float(low), float(high)) if launches else (1.0, 1.0)


def _is_plain_gpu(launch: Launch, target: Target) -> bool:
    return target.device == "cuda" and launch.dtype == "float32"


def _by_kernel(launch: Launch, target: Target, model: Mapping[str, Any]) -> float:
    memory = "corrected" if "ECC" in target.memory_type else "plain"
    level = model["levels"].get(memory, model["level"])
    return reachable(launch, target) * math.exp(float(evaluate(model, [features(launch, target)])[0]) + level)


def _by_class(launch: Launch, least: Bound, slowdown: Mapping[str, float]) -> float:
    factor = sum(weight * slowdown.get(name + side(launch, least), _UNKNOWN) for name, weight in shares(launch))
    hidden = slowdown.get(launch.kind + HIDDEN, 0.0) * min(least.compute, least.memory) if launch.k else 0.0
    return factor * least.seconds + hidden


def _sparse_penalty(launch: Launch, target: Target) -> float:
    """Sparse kernels gain less than their peak rate does."""
    from tersor.cost.bound import gains_from_zeros

    if not gains_from_zeros(launch, target):
        return 1.0
    gain = target.rate(launch.dtype, sparse=True) / target.rate(launch.dtype)
    return gain / (1 + _SPARSE_SHARE * (gain - 1))


@functools.cache
def _kernels() -> Mapping[str, Any]:
    return _read("kernels.json")


@functools.cache
def _models() -> Mapping[str, Any]:
    return _read("models.json")


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files("tersor.cost").joinpath(name).read_text(encoding="utf-8"))
    return found
