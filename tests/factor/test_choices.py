"""Budgets are kept and spent where they save most."""

from __future__ import annotations

import itertools
import random

import pytest

from tersor.factor.choices import Choice, allocate, frontier


def random_layers(seed: int) -> list[list[Choice]]:
    generator = random.Random(seed)
    return [
        [Choice(generator.uniform(1, 10), generator.uniform(0, 5)) for _ in range(generator.randint(1, 5))]
        for _ in range(4)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_within_the_budget_and_near_the_best(seed: int) -> None:
    layers = random_layers(seed)
    cheapest = sum(min(choice.cost for choice in layer) for layer in layers)
    budget = cheapest * 1.5
    picked = [layer[place] for layer, place in zip(layers, allocate(layers, budget), strict=True)]
    feasible = [c for c in itertools.product(*layers) if sum(item.cost for item in c) <= budget]
    best = min(sum(item.error for item in choices) for choices in feasible)
    steps = [layer[a].error - layer[b].error for layer in layers for a, b in itertools.pairwise(frontier(layer))]
    assert sum(item.cost for item in picked) <= budget
    # The relaxation's answer is at most one step worse than the best.
    assert sum(item.error for item in picked) <= best + max(steps, default=0.0) + 1e-9


def test_a_budget_below_the_cheapest_gives_the_cheapest() -> None:
    layers = random_layers(3)
    picked = allocate(layers, 0.0)
    assert [layer[place].cost for layer, place in zip(layers, picked, strict=True)] == [
        min(choice.cost for choice in layer) for layer in layers
    ]


def test_an_ample_budget_gives_the_least_error() -> None:
    layers = random_layers(4)
    picked = allocate(layers, 1e9)
    assert [layer[place].error for layer, place in zip(layers, picked, strict=True)] == [
        min(choice.error for choice in layer) for layer in layers
    ]


def test_equal_errors_take_the_cheaper() -> None:
    assert allocate([[Choice(5, 1.0), Choice(2, 1.0)]], 10) == [1]
