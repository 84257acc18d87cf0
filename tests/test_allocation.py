"""Allocation: budgets are met, minima and multiples hold, and integer programming is never worse than its rivals."""

from __future__ import annotations

import itertools

import pytest
import torch

from tersor.allocation import Candidate, Method, allocate, indices_cost
from tersor.axes.groups import Group
from tersor.axes.terms import Axis
from tersor.axes.work import Cost, Monomial

METHODS: tuple[Method, ...] = ("uniform", "global", "greedy", "knapsack")


def candidate(scores: list[float], multiple: int = 1, least: int = 1) -> Candidate:
    axis = Axis(len(scores))
    group = Group(f"g{axis.number}", axis, "hidden", (), (), (), (), "")
    return Candidate(group, torch.tensor(scores), multiple, least)


def chain(items: list[Candidate]) -> Cost:
    """A stack of linear layers through which the axes run one after another."""
    return Cost([Monomial(float(a.group.size * b.group.size), (a.axis, b.axis)) for a, b in itertools.pairwise(items)])


def lost(items: list[Candidate], counts: dict[Axis, int]) -> float:
    """Summed scores of what goes."""
    return sum(
        float(item.scores.sort().values[: item.group.size - counts.get(item.axis, item.group.size)].sum())
        for item in items
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("remove", [0.2, 0.5, 0.8])
def test_the_budget_is_met(method: Method, remove: float) -> None:
    torch.manual_seed(1)
    items = [candidate(torch.rand(size).tolist()) for size in (24, 32, 16, 40)]
    cost = chain(items)
    counts = allocate(items, cost, remove, method)
    assert cost.total(counts) <= cost.total() * (1 - remove) * 1.001
    assert cost.total(counts) >= cost.total() * (1 - remove) * 0.75, "far more was removed than was asked"


@pytest.mark.parametrize("method", METHODS)
def test_minimum_and_multiple_hold(method: Method) -> None:
    torch.manual_seed(2)
    items = [candidate(torch.rand(size).tolist(), multiple=8, least=8) for size in (64, 32, 48)]
    counts = allocate(items, chain(items), 0.9, method)
    assert all(count % 8 == 0 and count >= 8 for count in counts.values())


@pytest.mark.parametrize("method", METHODS)
def test_asking_for_more_than_there_is_takes_all_but_the_minimum(method: Method) -> None:
    items = [candidate([1.0] * 16, least=4), candidate([1.0] * 8, least=2)]
    counts = allocate(items, indices_cost(items), 0.99, method)
    assert [counts[item.axis] for item in items] == [4, 2]


def test_uniform_takes_the_same_share_and_global_the_lowest_scores() -> None:
    low, high = candidate([0.1] * 10), candidate([0.9] * 10)
    items = [low, high]
    assert list(allocate(items, indices_cost(items), 0.5, "uniform").values()) == [5, 5]
    ranked = allocate(items, indices_cost(items), 0.4, "global")
    assert ranked[low.axis] < 10 and high.axis not in ranked


@pytest.mark.parametrize("method", ["uniform", "global", "greedy"])
def test_integer_programming_loses_no_more_score(method: Method) -> None:
    torch.manual_seed(3)
    for _ in range(5):
        items = [candidate((torch.rand(size) * scale).tolist()) for size, scale in ((24, 1.0), (32, 5.0), (16, 0.3))]
        cost = indices_cost(items)
        best = allocate(items, cost, 0.5, "knapsack")
        assert lost(items, best) <= lost(items, allocate(items, cost, 0.5, method)) * 1.0001


def test_greedy_is_optimal_where_costs_are_equal() -> None:
    torch.manual_seed(4)
    items = [candidate(torch.rand(size).tolist()) for size in (9, 7)]
    counts = allocate(items, indices_cost(items), 0.5, "greedy")
    every = torch.cat([item.scores for item in items]).sort().values
    assert lost(items, counts) == pytest.approx(float(every[:8].sum()), rel=1e-5)
