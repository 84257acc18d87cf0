"""Which of several settings each layer gets, so that all together cost what is allowed and lose least."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Setting = TypeVar("Setting")


@dataclass(frozen=True)
class Choice:
    """One setting of one layer.

    Attributes:
        cost: what it costs, in any unit that adds up.
        error: what it loses, likewise.
    """

    cost: float
    error: float


def allocate(layers: Sequence[Sequence[Choice]], budget: float) -> list[int]:
    """The position of the choice for each layer, such that costs add up to at most ``budget``.

    Starts at every layer's cheapest choice and buys whatever saves most error per cost, along the convex frontier of
    each layer; optimal but for the last step (Lagrangian relaxation of the multiple-choice knapsack). Where even the
    cheapest choices exceed the budget, they are the answer.

    >>> rich, poor = [Choice(1, 9), Choice(2, 0)], [Choice(1, 2), Choice(2, 0)]
    >>> allocate([rich, poor], budget=3)
    [1, 0]
    """
    frontiers = [frontier(choices) for choices in layers]
    places = [0] * len(layers)
    spent = sum(layer[line[0]].cost for layer, line in zip(layers, frontiers, strict=True))
    heap: list[tuple[float, int]] = []

    def push(index: int) -> None:
        line, place = frontiers[index], places[index]
        if place + 1 < len(line):
            now, better = layers[index][line[place]], layers[index][line[place + 1]]
            heapq.heappush(heap, ((better.error - now.error) / (better.cost - now.cost), index))

    for index in range(len(layers)):
        push(index)
    while heap:
        _, index = heapq.heappop(heap)
        line, place = frontiers[index], places[index]
        step = layers[index][line[place + 1]].cost - layers[index][line[place]].cost
        if spent + step > budget * (1 + 1e-9):
            continue
        spent += step
        places[index] += 1
        push(index)
    return [line[place] for line, place in zip(frontiers, places, strict=True)]


def settle(
    settings: Sequence[Sequence[Setting]], choices: Sequence[Sequence[Choice]], whole: Sequence[float], ratio: float
) -> list[Setting | None]:
    """The setting of each layer, or None where it stays as it is, such that all cost at most ``ratio`` of the wholes.

    Args:
        settings: of each layer, those that may be taken.
        choices: what each of them costs and loses.
        whole: what each layer costs as it is, where it loses nothing.
        ratio: share of the summed ``whole`` that may be spent.
    """
    options = [[*few, Choice(cost, 0.0)] for few, cost in zip(choices, whole, strict=True)]
    picked = allocate(options, ratio * sum(whole))
    return [few[place] if place < len(few) else None for few, place in zip(settings, picked, strict=True)]


def frontier(choices: Sequence[Choice]) -> list[int]:
    """Positions of the choices on the lower convex hull of error over cost, cheapest first.

    >>> frontier([Choice(1, 4), Choice(2, 3.5), Choice(3, 0), Choice(4, 1)])
    [0, 2]
    """
    order = sorted(range(len(choices)), key=lambda i: (choices[i].cost, choices[i].error))
    line: list[int] = []
    for index in order:
        point = choices[index]
        if line and point.error >= choices[line[-1]].error:
            continue
        while len(line) > 1 and _slope(choices[line[-2]], choices[line[-1]]) >= _slope(choices[line[-1]], point):
            line.pop()
        line.append(index)
    return line


def _slope(left: Choice, right: Choice) -> float:
    return (right.error - left.error) / (right.cost - left.cost)
