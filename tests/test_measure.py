"""Interleaved timing."""

import random
import time

import pytest

from tersor.measure import interleaved, paired


def test_slower_is_slower():
    timings = interleaved({"slow": lambda: time.sleep(0.01), "fast": lambda: time.sleep(0.001)}, seconds=0.1)
    slow, fast = timings
    assert (slow.name, fast.name) == ("slow", "fast")
    assert slow.median_ms > 3 * fast.median_ms
    assert slow.low_ms <= slow.median_ms <= slow.high_ms
    assert slow.runs >= 5 and fast.runs >= 5


def test_each_round_has_every_contestant_in_an_order_that_the_seed_fixes():
    def orders(seed: int) -> list[str]:
        seen: list[str] = []
        calls = {name: (lambda name=name: seen.append(name)) for name in "abc"}
        interleaved(calls, seconds=0, minimum_runs=6, seed=seed, settle=0)
        return seen[6:]

    first = orders(0)
    assert first == orders(0)
    assert first != orders(1)
    rounds = [first[start : start + 3] for start in range(0, len(first), 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1


def test_what_another_leaves_running_is_not_counted():
    until = 0.0

    def leaves_threads() -> None:
        nonlocal until
        until = time.perf_counter() + 0.01

    def alone() -> None:
        time.sleep(0.005 if time.perf_counter() < until else 0.001)

    calls = {"first": leaves_threads, "second": alone}
    hit = interleaved(calls, seconds=0, minimum_runs=15, settle=0)[1]
    settled = interleaved(calls, seconds=0, minimum_runs=15)[1]
    assert hit.median_ms > 4 and settled.median_ms < 3


def test_a_long_call_is_not_made_twice_in_a_turn():
    made: list[int] = []

    def call() -> None:
        made.append(1)
        time.sleep(0.02)

    interleaved({"long": call}, seconds=0, minimum_runs=3, settle=0.001)
    assert len(made) == 2 + 2 + 1 + 1


def test_nothing_to_time():
    assert interleaved({}, seconds=0) == []


@pytest.mark.parametrize("seconds", [0.05])
def test_time_is_kept(seconds):
    start = time.perf_counter()
    interleaved({"only": lambda: time.sleep(0.001)}, seconds=seconds)
    assert time.perf_counter() - start < 20 * seconds


class Clock:
    """Time that passes only where a call takes some, so that a busy machine changes nothing."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_a_ratio_is_that_of_neighbouring_turns_and_does_not_see_the_machine_drift(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("tersor.measure.time", clock)

    def call(share: float) -> None:
        clock.now += share * (0.002 + 0.02 * clock.now)

    ratio = paired(lambda: call(1.0), lambda: call(1.5), seconds=0.3, settle=0)
    assert ratio.low <= ratio.median <= ratio.high
    assert ratio.median == pytest.approx(1.5, rel=0.05)
    assert ratio.low > 1.4


def test_the_interval_of_a_ratio_holds_one_for_equals(monkeypatch):
    clock, drawn = Clock(), random.Random(7)
    monkeypatch.setattr("tersor.measure.time", clock)

    def call() -> None:
        clock.now += 0.002 * drawn.uniform(0.8, 1.2)

    ratio = paired(call, call, seconds=0.3, settle=0)
    assert ratio.low < 1 < ratio.high
    assert ratio.median == pytest.approx(1, abs=0.1)
    assert ratio.rounds >= 9
