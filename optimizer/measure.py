"""Latency measured so that two contestants can be compared: interleaved, shuffled, medians."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch

from tersor.report.model import Timing


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
    rounds = _rounds(contestants, seconds, minimum_runs, seed, settle)
    return [_timing(name, [run for turns in rounds for run in turns[name]]) for name in contestants]


@dataclass(frozen=True)
class Ratio:
    """How long one contestant takes relative to another.

    Attributes:
        median: over the rounds, of the ratio of the two turns that a round consists of.
        low, high: its 95 % confidence interval, from order statistics; no assumption on how times are distributed.
        rounds: how many.
    """

    median: float
    low: float
    high: float
    rounds: int


def paired(
    before: Callable[[], Any],
    after: Callable[[], Any],
    *,
    seconds: float = 3.0,
    minimum_rounds: int = 9,
    seed: int = 0,
    settle: float = 0.05,
) -> Ratio:
    """Time of ``after`` relative to ``before``, from neighbouring turns: what a drifting machine does to both cancels.

    The arguments are those of `interleaved`.
    """
    calls = {"before": before, "after": after}
    rounds = _rounds(calls, seconds, minimum_rounds, seed, settle)
    ratios = sorted(median(turns["after"]) / median(turns["before"]) for turns in rounds)
    away = round(0.98 * math.sqrt(len(ratios)))
    middle = (len(ratios) - 1) / 2
    low, high = max(0, math.floor(middle - away)), min(len(ratios) - 1, math.ceil(middle + away))
    return Ratio(median(ratios), ratios[low], ratios[high], len(ratios))


def _rounds(
    contestants: Mapping[str, Callable[[], Any]], seconds: float, least: int, seed: int, settle: float
) -> list[dict[str, list[float]]]:
    """Milliseconds of the timed calls of each contestant, round by round."""
    shuffled, order = random.Random(seed), list(contestants)
    for _ in range(2):
        for call in contestants.values():
            call()
    rounds: list[dict[str, list[float]]] = []
    end = time.perf_counter() + seconds
    while contestants and (len(rounds) < least or time.perf_counter() < end):
        shuffled.shuffle(order)
        last = rounds[-1] if rounds else {}
        rounds.append({name: _turn(contestants[name], settle, last.get(name, [])) for name in order})
    return rounds


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
