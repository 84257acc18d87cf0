"""How long candidates run here, relative to the original: each beside it, so that a drifting machine hits both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from tersor.backend import Backend, Compiled, backend_names, find_backend
from tersor.cost.flops import program_flops
from tersor.errors import BackendError, TersorError
from tersor.interface import Flat
from tersor.lower import SMALL, THREADED, compile_checked
from tersor.measure import Ratio, interleaved, paired
from tersor.pipeline import Reference
from tersor.program import Program
from tersor.target import Target

QUICK = ("onnxruntime", "openvino", "tensorrt", "triton")
"""Backends that compile in seconds; the others only run for the final result."""

GLANCE = 0.1
"""Seconds for finding out which backend is the fastest for a candidate."""


@dataclass(frozen=True)
class Stopwatch:
    """The original on its fastest backend, and those that candidates are tried on.

    Attributes:
        original: its program.
        target: the device, with the threads that all are measured with.
        backends: to try.
        base: the original, compiled by ``backend``.
        ms: the median of its time when the search began, milliseconds.
        seconds: to measure each candidate.
    """

    original: Program
    target: Target
    backends: tuple[Backend, ...]
    base: Compiled
    backend: str
    ms: float
    seconds: float

    def measure(self, program: Program, reference: Reference) -> tuple[Ratio, str]:
        """Time relative to the original, and on which backend; raises BackendError where none computes it right."""
        calls = compiled(program, reference, self.backends, self.target)
        inputs = self.original.inputs
        name = _fastest(calls, inputs)
        base, call = _bound(self.base, inputs), _bound(calls[name], inputs)
        return paired(base, call, seconds=self.seconds, minimum_rounds=5, settle=0.02), name


def stopwatch(original: Program, reference: Reference, target: Target, wanted: str, seconds: float) -> Stopwatch:
    """Compile and time the original; raises BackendError where no backend takes it."""
    backends = usable(wanted)
    small = program_flops(original).products < SMALL and all(item.name in THREADED for item in backends)
    used = replace(target, threads=1) if small else target
    calls = compiled(original, reference, backends, used)
    name = _fastest(calls, original.inputs)
    (timing,) = interleaved({name: _bound(calls[name], original.inputs)}, seconds=min(1.0, seconds), settle=0.02)
    return Stopwatch(original, used, backends, calls[name], name, timing.median_ms, seconds)


def runs_here(target: Target) -> bool:
    """Whether times on this machine say something about the target."""
    return target.device == "cpu" or (target.device == "cuda" and torch.cuda.is_available())


def usable(wanted: str) -> tuple[Backend, ...]:
    """The wanted backend, or all that are installed and quick to compile."""
    if wanted != "auto":
        return (find_backend(wanted),)
    found = [find_backend(name) for name in QUICK if name in backend_names()]
    return tuple(backend for backend in found if backend.missing() is None)


def compiled(
    program: Program, reference: Reference, backends: tuple[Backend, ...], target: Target
) -> dict[str, Compiled]:
    """The program by every backend that computes it right; raises BackendError with each one's reason where none."""
    calls: dict[str, Compiled] = {}
    refused = []
    for backend in backends:
        try:
            calls[backend.name] = compile_checked(program, backend, reference, target)
        except TersorError as error:
            refused.append(f"{backend.name}: {error}")
        except Exception as error:  # a backend's own bug costs the candidate, not the search
            refused.append(f"{backend.name}: {type(error).__name__}: {error}".splitlines()[0])
    if not calls:
        raise BackendError(f"no backend takes it: {'; '.join(refused) or 'none is installed'}")
    return calls


def _fastest(calls: Mapping[str, Compiled], inputs: Flat) -> str:
    if len(calls) == 1:
        return next(iter(calls))
    bound = {name: _bound(call, inputs) for name, call in calls.items()}
    timings = interleaved(bound, seconds=GLANCE, minimum_runs=3, settle=0.01)
    return min(timings, key=lambda timing: timing.median_ms).name


def _bound(call: Compiled, inputs: Flat) -> Callable[[], Any]:
    return lambda: call(*inputs)
