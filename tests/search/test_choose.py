"""Which trials are kept, against all pairs compared one by one."""

from __future__ import annotations

import random

import pytest

from tersor.search.choose import best, finalists, front, usable
from tersor.search.trial import LOSSY, MEASURED, Trial


def trial(name: str, ratio: float, lost: float) -> Trial:
    return Trial(name, MEASURED, lost=lost, ratio=ratio)


def test_the_front_is_what_no_other_beats() -> None:
    shuffled = random.Random(0)
    trials = [trial(str(i), shuffled.choice([0.2, 0.4, 0.6, 0.8]), shuffled.choice([0, 0.1, 0.2])) for i in range(30)]
    found = {(item.time, item.loss) for item in front(trials, budget=1.0)}
    assert found == {
        (a.time, a.loss)
        for a in trials
        if not any((b.time <= a.time and b.loss < a.loss) or (b.time < a.time and b.loss <= a.loss) for b in trials)
    }


def test_the_fastest_within_the_budget_and_of_like_ones_the_simplest() -> None:
    trials = [trial("a,b,c", 0.5, 0.005), trial("a,b", 0.505, 0.009), trial("d", 0.2, 0.02), trial("", 1.0, 0.0)]
    found = best(trials, budget=0.01)
    assert found is not None and found.pipeline == "a,b"


def test_with_a_latency_the_one_that_loses_least_among_those_that_reach_it() -> None:
    trials = [trial("fast", 0.2, 0.009), trial("just", 0.5, 0.001), trial("slow", 0.6, 0.0)]
    found = best(trials, 0.01, wanted=0.5)
    assert found is not None and found.pipeline == "just"
    unreachable = best(trials, 0.01, wanted=0.1)
    assert unreachable is not None and unreachable.pipeline == "fast"


def test_nothing_is_usable_without_a_time_or_beyond_the_budget() -> None:
    assert usable([Trial("a", LOSSY, lost=0.0), trial("b", 0.5, 0.02)], budget=0.01) == []
    assert best([Trial("a", "failed")], budget=1.0) is None


def test_a_gain_in_quality_counts_as_no_loss() -> None:
    assert trial("a", 0.5, -0.1).loss == 0.0


def test_finalists_are_the_best_few_in_order() -> None:
    trials = [trial("a", 0.5, 0.0), trial("b", 0.3, 0.0), trial("c", 0.4, 0.0)]
    assert [item.pipeline for item in finalists(trials, 1.0, None, 2)] == ["b", "c"]
    assert pytest.approx(0.3) == finalists(trials, 1.0, None, 9)[0].ratio
