"""Latency measured so that two contestants can be compared: interleaved, shuffled, medians."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from statistics import median, quantiles
from typing import Any

import torch

from tersor.backend import Backend, Compiled, backend_names, find_backend
from tersor.errors import BackendError, TersorError
from tersor.interface import Flat
from tersor.program import Program
from tersor.report.model import Timing
from tersor.target import Target


def interleaved(
    contestants: Mapping[str, Callable[[], Any]],
    *,
    seconds: float = 3.0,
    minimum_runs: int = 5,
    seed: int = 0,
    settle: float = 0.05,
) -> list[Timing]:
    """Run all contestants in turn, in a new order each round, so that drift of the machine hits all alike.

    Libraries leave threads behind that spin for a while after a call, and threads that wake up need some milliseconds
    until each has a core of its own. So each turn begins with calls that are not timed.

    Args:
        contestants: what to time, by name; each is called twice before the clock starts.
        seconds: time to spend on all together, warm-up not counted.
        minimum_runs: rounds to do even where they take longer.
        seed: fixes the orders.
        settle: seconds at the beginning of a turn that are not timed, and as many at least that are; 0 times a single
            call in each turn.

    Returns:
        One timing per contestant, in milliseconds: median and quartiles.
    """
    shuffled, order = random.Random(seed), list(contestants)
    for _ in range(2):
        for call in contestants.values():
            call()
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    end, rounds = time.perf_counter() + seconds, 0
    while contestants and (rounds < minimum_runs or time.perf_counter() < end):
        shuffled.shuffle(order)
        for name in order:
            taken[name] += _turn(contestants[name], settle, taken[name])
        rounds += 1
    return [_timing(name, runs) for name, runs in taken.items()]


def _turn(call: Callable[[], Any], settle: float, before: list[float]) -> list[float]:
    """Timed calls of one turn; a call that is long against the settling needs none."""
    if settle and not (before and before[-1] > 10e3 * settle):
        _milliseconds_of(call, settle)
    return _milliseconds_of(call, settle)


def _milliseconds_of(call: Callable[[], Any], seconds: float) -> list[float]:
    """One call, and more until the seconds are over."""
    end, taken = time.perf_counter() + seconds, [_milliseconds(call)]
    while time.perf_counter() < end:
        taken.append(_milliseconds(call))
    return taken


def _milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def _timing(name: str, runs: list[float]) -> Timing:
    low, _, high = quantiles(runs, n=4, method="inclusive") if len(runs) > 1 else [runs[0]] * 3
    return Timing(name, median(runs), low, high, len(runs))


def auto(
    program: Program, target: Target, inputs: Flat, seconds: float = 3.0
) -> tuple[Backend, Compiled, list[Timing], dict[str, str]]:
    """Compile with every installed backend and keep the fastest.

    Args:
        inputs: flat inputs to time with.
        seconds: time to spend on measuring; compilation comes on top.

    Returns:
        The backend, its compiled program, all timings, and by backend name why another did not take part.

    Raises:
        BackendError: no backend can run the program.
    """
    compiled: dict[str, Compiled] = {}
    reasons: dict[str, str] = {}
    for name in backend_names():
        reason = _compile(find_backend(name), program, target, inputs, compiled)
        if reason:
            reasons[name] = reason
    if not compiled:
        raise BackendError(f"no backend can run the program: {reasons}", "see the first reason")
    calls = {name: _bound(call, inputs) for name, call in compiled.items()}
    timings = interleaved(calls, seconds=seconds)
    best = min(timings, key=lambda timing: timing.median_ms).name
    return find_backend(best), compiled[best], timings, reasons


def _compile(backend: Backend, program: Program, target: Target, inputs: Flat, into: dict[str, Compiled]) -> str:
    missing = backend.missing()
    fatal = [finding for finding in backend.lint(program, target) if finding.fatal] if missing is None else []
    if missing is not None or fatal:
        return missing or f"{fatal[0].problem}; {fatal[0].remedy}"
    try:
        call = backend.compile(program, target)
        call(*inputs)
    except TersorError as error:
        return str(error)
    into[backend.name] = call
    return ""


def _bound(call: Compiled, inputs: Flat) -> Callable[[], Any]:
    return lambda: call(*inputs)
