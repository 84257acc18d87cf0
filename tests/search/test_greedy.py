"""The search in worlds whose best pipeline is known by trying all."""

from __future__ import annotations

import random
from itertools import product

import pytest

from tersor.search.explain import contributions, records
from tersor.search.greedy import Search
from tersor.search.parts import milder, without
from tersor.search.trial import Selection, written
from tests.search.models import World, row

ROWS = (row("prune", 4), row("low-rank", 2), row("quantize", 1))


def world(seed: int, budget: float = 0.02) -> World:
    shuffled = random.Random(seed)
    effects = {}
    for name in ("prune", "low-rank", "quantize"):
        time, lost = 1.0, 0.0
        for level in range(4):
            time, lost = time * shuffled.uniform(0.7, 0.95), lost + shuffled.uniform(0.0, 0.008)
            effects[f"{name}{{{level}}}"] = (time, lost)
    return World(effects, budget)


def every(made: World) -> list[tuple[float, str]]:
    """Time and name of every pipeline within the budget."""
    found = []
    for picked in product(*[[None, *line] for line in ROWS]):
        trial = made.trial(tuple(choice for choice in picked if choice is not None))
        if trial.ratio is not None:
            found.append((trial.ratio, trial.pipeline))
    return sorted(found)


@pytest.mark.parametrize("seed", range(8))
def test_it_comes_within_a_tenth_of_the_best_of_all_pipelines(seed: int) -> None:
    made = world(seed)
    search = Search(ROWS, made.evaluate, made.budget)
    search.run()
    found = search.trials[search.best()].time
    tried = len(made.seen)
    best, _ = every(world(seed))[0]
    assert found <= 1.1 * best
    assert tried <= 30 and len(set(made.seen)) == tried, "a pipeline is evaluated once"


def test_it_is_deterministic() -> None:
    first, second = world(3), world(3)
    for made in (first, second):
        Search(ROWS, made.evaluate, made.budget).run()
    assert first.seen == second.seen


def test_interactions_are_measured_and_not_assumed() -> None:
    effects = {"prune{0}": (0.6, 0.004), "quantize{0}": (0.5, 0.004)}
    quarrel = World(effects, 0.01, {frozenset({"prune", "quantize"}): 5.0})
    search = Search((row("prune", 1), row("quantize", 1)), quarrel.evaluate, 0.01)
    search.run()
    assert "prune{0},quantize{0}" in quarrel.seen
    assert written(search.best()) == "quantize{0}"
    told = {item.passes: item for item in records(search, search.best(), {})}["prune{0},quantize{0}"]
    assert told.status == "too lossy" and "4.00% of the 1.00%" in told.reason
    assert told.expected_lost == pytest.approx(0.008) and told.lost == pytest.approx(0.04)


def test_it_stops_at_the_latency_and_takes_back_what_is_not_needed() -> None:
    effects = {"prune{0}": (0.9, 0.0001), "prune{1}": (0.4, 0.004), "quantize{0}": (0.45, 0.005)}
    made = World(effects, 1.0)
    search = Search((row("prune", 2), row("quantize", 1)), made.evaluate, 1.0, wanted=0.5)
    search.run()
    assert written(search.best()) == "prune{1}"
    assert search.trials[search.best()].time <= 0.5


def test_a_pass_that_loses_too_much_is_not_tried_harder() -> None:
    made = World({"prune{0}": (0.9, 0.05), "prune{1}": (0.8, 0.1), "quantize{0}": (0.5, 0.0)}, 0.01)
    search = Search((row("prune", 2), row("quantize", 1)), made.evaluate, 0.01)
    search.run()
    assert "prune{1}" not in made.seen
    assert "already loses 5.00% of the 1.00%" in search.stopped["prune{1}"]
    assert written(search.best()) == "quantize{0}"


def test_with_nothing_to_spend_only_what_costs_nothing_is_taken() -> None:
    made = World({"prune{0}": (0.5, 0.001), "quantize{0}": (0.7, 0.0)}, 0.0)
    search = Search((row("prune", 1), row("quantize", 1)), made.evaluate, 0.0)
    search.run()
    assert written(search.best()) == "quantize{0}"


def test_with_nothing_to_choose_the_exact_passes_stay() -> None:
    made = World({}, 0.01)
    search = Search((), made.evaluate, 0.01)
    search.run()
    assert search.best() == () and made.seen == [""]


def test_interrupted_it_knows_the_best_so_far() -> None:
    made = world(0)

    def evaluate(selections: list[Selection]) -> list[object]:
        if len(made.seen) > 6:
            raise KeyboardInterrupt
        return made.evaluate(selections)  # type: ignore[return-value]

    search = Search(ROWS, evaluate, made.budget)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        search.run()
    assert search.trials[search.best()].time < 1.0


def test_every_candidate_has_its_reason_and_every_pass_its_contribution() -> None:
    effects = {
        "prune{0}": (0.99, 0.0),
        "low-rank{0}": (0.7, 0.002),
        "low-rank{1}": (0.6, 0.05),
        "quantize{0}": (0.5, 0),
    }
    made = World(effects, 0.01)
    search = Search((row("prune", 1), row("low-rank", 2), row("quantize", 1)), made.evaluate, 0.01)
    search.run()
    told = {item.passes: item for item in records(search, search.best(), {"cast": "no kernels"})}
    assert told["low-rank{0},quantize{0}"].status == "chosen"
    assert told["quantize{0}"].status == "front"
    assert told["prune{0}"].reason.startswith("no gain on this target: predicted 0.99, measured 0.99")
    assert told["low-rank{1}"].reason == "too lossy: it loses 5.00% of the 1.00% that may go"
    assert told["cast"].reason == "unsupported: no kernels"
    assert all(item.reason for item in told.values() if item.status != "chosen")
    parts = {item.spec: item for item in contributions(search, search.best())}
    assert parts["quantize{0}"].time == pytest.approx(2.0) and parts["low-rank{0}"].lost == pytest.approx(0.002)


PREPARED = {"prune{0}": (0.8, 0.002), "quantize{0}": (0.5, 0.03), "smooth{0}": (1.0, 0.0)}
SMOOTHED = {frozenset({"smooth", "quantize"}): 0.1}


def test_what_loses_much_is_tried_behind_what_prepares_for_it() -> None:
    made = World(PREPARED, 0.01, SMOOTHED)
    search = Search((row("prune", 1), row("smooth", 1), row("quantize", 1)), made.evaluate, 0.01)
    search.run()
    assert "smooth{0}" not in made.seen, "it saves nothing by itself"
    best = search.best()
    assert written(best) == "prune{0},smooth{0},quantize{0}"
    told = {item.spec: item for item in contributions(search, best)}
    assert told["quantize{0}"].time == pytest.approx(2.0), "without it, what prepares for it goes, too"
    rows = {item.passes: item for item in records(search, best, {})}
    assert rows["smooth{0},quantize{0}"].expected is None
    assert rows[written(best)].expected == pytest.approx(0.4)


def test_what_loses_little_needs_no_preparation() -> None:
    made = World({**PREPARED, "quantize{0}": (0.5, 0.001)}, 0.01, SMOOTHED)
    Search((row("prune", 1), row("smooth", 1), row("quantize", 1)), made.evaluate, 0.01).run()
    assert not any("smooth" in name for name in made.seen)


def test_a_pass_that_is_lossy_alone_may_not_be_behind_another() -> None:
    plain, prepared, both = (row("quantize", 1), (*row("smooth", 1), *row("quantize", 1)), row("prune", 1))
    assert milder(plain, (*both, *plain)) and not milder(plain, (*both, *prepared))
    assert milder(prepared, (*both, *prepared)) and not milder(prepared, plain)
    assert without(prepared, prepared[1]) == () and without(prepared, prepared[0]) == (prepared[1],)
