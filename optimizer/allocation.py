"""How many indices each group gives up so that a program costs as little as is asked."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import torch

from tersor.axes.groups import Group
from tersor.axes.terms import Axis
from tersor.axes.work import Cost, Monomial
from tersor.errors import UsageError

Method: TypeAlias = Literal["uniform", "global", "greedy", "knapsack"]


@dataclass(frozen=True)
class Candidate:
    """A group that may be cut.

    Attributes:
        group: the group.
        scores: one per index, higher is more important; comparable between groups.
        multiple: counts that stay are multiples of it.
        least: so many stay at least.
    """

    group: Group
    scores: torch.Tensor
    multiple: int = 1
    least: int = 1

    @property
    def axis(self) -> Axis:
        """The group's axis."""
        return self.group.axis

    @cached_property
    def losses(self) -> torch.Tensor:
        """The summed score of the k least important indices, k from 0 to all; float64 of shape [size + 1]."""
        return torch.cat([torch.zeros(1, dtype=torch.float64), self.scores.double().sort().values.cumsum(0)])

    def lost(self, stay: int) -> float:
        """The summed score that goes where only the ``stay`` most important indices stay."""
        return float(self.losses[self.group.size - stay])

    def rounded(self, wanted: float) -> int:
        """The nearest count that may stay, the larger one of two."""
        size, step = self.group.size, self.multiple
        count = int(wanted / step + 0.5) * step
        return size if count >= size else max(count, self.least)


def indices_cost(candidates: Sequence[Candidate]) -> Cost:
    """The plain number of indices, for a budget that is stated in them."""
    return Cost([Monomial(float(item.group.size), (item.axis,)) for item in candidates])


def allocate(candidates: Sequence[Candidate], cost: Cost, remove: float, method: Method) -> dict[Axis, int]:
    """Counts that stay, for those axes that lose some.

    Args:
        candidates: the groups with their scores.
        cost: what the budget counts.
        remove: share of the whole cost to remove, 0 to 1; as much as possible where the groups do not hold so much.
        method: "uniform" takes the same share everywhere; "global" cuts at one score; "greedy" takes what costs least
            score per saved cost, step by step; "knapsack" solves for the least total score by integer programming.
    """
    target = cost.total() * (1.0 - remove)
    counts = _refilled(candidates, cost, target, _METHODS[method](candidates, cost, target))
    return {item.axis: counts[item.axis] for item in candidates if counts[item.axis] < item.group.size}


def _refilled(candidates: Sequence[Candidate], cost: Cost, target: float, counts: dict[Axis, int]) -> dict[Axis, int]:
    """Counts come in steps, so more may have gone than was asked: give the most valuable steps back while they fit."""
    counts, total = dict(counts), cost.total(counts)
    while True:
        best: tuple[float, Axis, int, float] | None = None
        for item in candidates:
            have = counts[item.axis]
            more = min(item.group.size, (have // item.multiple + 1) * item.multiple) - have
            if not more:
                continue
            price = cost.saving(item.axis, more, {**counts, item.axis: have + more})
            gain = item.lost(have) - item.lost(have + more)
            if total + price <= target and (best is None or gain / max(price, 1e-30) > best[0]):
                best = gain / max(price, 1e-30), item.axis, have + more, price
        if best is None:
            return counts
        counts[best[1]], total = best[2], total + best[3]


def _uniform(candidates: Sequence[Candidate], cost: Cost, target: float) -> dict[Axis, int]:
    def at(share: float) -> dict[Axis, int]:
        return {item.axis: item.rounded(item.group.size * (1.0 - share)) for item in candidates}

    return _least(at, cost, target, 0.0, 1.0)


def _global(candidates: Sequence[Candidate], cost: Cost, target: float) -> dict[Axis, int]:
    every = torch.cat([item.scores.double().flatten() for item in candidates]).sort().values

    def at(share: float) -> dict[Axis, int]:
        threshold = float(every[min(int(share * len(every)), len(every) - 1)])
        return {item.axis: item.rounded(int((item.scores > threshold).sum())) for item in candidates}

    return _least(at, cost, target, 0.0, 1.0)


def _least(
    at: Callable[[float], dict[Axis, int]], cost: Cost, target: float, low: float, high: float
) -> dict[Axis, int]:
    """The smallest share whose cost is within the target, by bisection."""
    if cost.total(at(low)) <= target:
        return at(low)
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (low, middle) if cost.total(at(middle)) <= target else (middle, high)
    return at(high)


def _greedy(candidates: Sequence[Candidate], cost: Cost, target: float) -> dict[Axis, int]:
    """Always the step that loses least score per saved cost; savings shrink with the neighbours, so they are redone."""
    counts = {item.axis: item.group.size for item in candidates}
    heap: list[tuple[float, int, int]] = []

    def push(index: int) -> None:
        item, have = candidates[index], counts[candidates[index].axis]
        fewer = _step(item, have)
        if fewer:
            heapq.heappush(heap, (_price(item, have, fewer, cost, counts), index, have))

    for index in range(len(candidates)):
        push(index)
    total = cost.total(counts)
    while heap and total > target:
        price, index, have = heapq.heappop(heap)
        item = candidates[index]
        if counts[item.axis] != have:
            continue
        fewer = _step(item, have)
        now = _price(item, have, fewer, cost, counts)
        if heap and now > price * (1 + 1e-9) and now > heap[0][0]:
            heapq.heappush(heap, (now, index, have))
            continue
        total -= cost.saving(item.axis, fewer, counts)
        counts[item.axis] = have - fewer
        push(index)
    return counts


def _step(item: Candidate, have: int) -> int:
    """How many indices the next step removes; 0 where nothing more may go."""
    after = (have - 1) // item.multiple * item.multiple
    return have - after if after >= item.least else 0


def _price(item: Candidate, have: int, fewer: int, cost: Cost, counts: dict[Axis, int]) -> float:
    lost = item.lost(have - fewer) - item.lost(have)
    saved = cost.saving(item.axis, fewer, counts)
    return lost / saved if saved > 0 else float("inf")


def _knapsack(candidates: Sequence[Candidate], cost: Cost, target: float) -> dict[Axis, int]:
    """One count per group such that the summed score lost is least, costs taken as linear around the uniform answer."""
    start = _uniform(candidates, cost, target)
    best, best_lost = start, _lost(candidates, start)
    for _ in range(3):
        counts = _solve(candidates, cost, target, start)
        if counts is None:
            break
        if cost.total(counts) <= target * 1.001 and _lost(candidates, counts) < best_lost:
            best, best_lost = counts, _lost(candidates, counts)
        start = counts
    return best


def _lost(candidates: Sequence[Candidate], counts: dict[Axis, int]) -> float:
    return sum(item.lost(counts[item.axis]) for item in candidates)


def _levels(item: Candidate) -> list[int]:
    steps = [item.group.size]
    while fewer := _step(item, steps[-1]):
        steps.append(steps[-1] - fewer)
    return steps[:: max(1, len(steps) // 32)]


def _solve(
    candidates: Sequence[Candidate], cost: Cost, target: float, around: dict[Axis, int]
) -> dict[Axis, int] | None:
    try:
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ImportError as error:
        raise UsageError(
            "allocation 'knapsack' needs SciPy", "install it (pip install scipy), or use 'greedy'"
        ) from error
    levels = [_levels(item) for item in candidates]
    losses, savings = [], []
    for item, steps in zip(candidates, levels, strict=True):
        losses += [item.lost(count) for count in steps]
        full = {**around, item.axis: item.group.size}
        savings += [cost.saving(item.axis, item.group.size - count, full) for count in steps]
    picks = np.zeros((len(candidates), len(losses)))
    begin = 0
    for row, steps in enumerate(levels):
        picks[row, begin : begin + len(steps)] = 1
        begin += len(steps)
    needed = _needed(candidates, cost, target, around)
    scale = max(max(losses), 1e-30)
    answer = milp(
        np.array(losses) / scale,
        constraints=[LinearConstraint(picks, 1, 1), LinearConstraint(np.array(savings)[None], needed, np.inf)],
        bounds=Bounds(0, 1),
        integrality=np.ones(len(losses)),
        options={"time_limit": 20.0},
    )
    if answer.x is None:
        return None
    chosen, begin = {}, 0
    for item, steps in zip(candidates, levels, strict=True):
        chosen[item.axis] = steps[int(answer.x[begin : begin + len(steps)].argmax())]
        begin += len(steps)
    return chosen


def _needed(candidates: Sequence[Candidate], cost: Cost, target: float, around: dict[Axis, int]) -> float:
    """What the linear savings must add up to: what they add up to at the point around which they were taken."""
    linear = sum(
        cost.saving(item.axis, item.group.size - around[item.axis], {**around, item.axis: item.group.size})
        for item in candidates
    )
    return linear + cost.total(around) - target


_METHODS: dict[Method, Callable[[Sequence[Candidate], Cost, float], dict[Axis, int]]] = {
    "uniform": _uniform,
    "global": _global,
    "greedy": _greedy,
    "knapsack": _knapsack,
}
