"""Passes that do nothing, and a world in which they cost what a table says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tersor.context import Context
from tersor.program import Program
from tersor.search.trial import LOSSY, MEASURED, Choice, Selection, Trial, written


@dataclass(frozen=True)
class Nothing:
    """A pass that is never applied."""

    exact: ClassVar[bool] = False

    def __call__(self, program: Program, context: Context) -> None:
        raise AssertionError


def row(name: str, levels: int) -> tuple[Choice, ...]:
    return tuple(Choice(name, level, Nothing(), f"{name}{{{level}}}") for level in range(levels))


@dataclass
class World:
    """Times multiply and losses add, but for what ``together`` says of pairs of passes.

    Attributes:
        effects: time and loss of each setting alone.
        together: factor on the loss where both passes are there.
        budget: beyond which a pipeline is too lossy, and has no time.
        seen: what was evaluated, in order.
    """

    effects: Mapping[str, tuple[float, float]]
    budget: float
    together: Mapping[frozenset[str], float] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    def trial(self, selection: Selection, again: bool = False) -> Trial:
        self.seen.append(written(selection))
        time, lost = 1.0, 0.0
        for choice in selection:
            time, lost = time * self.effects[choice.spec][0], lost + self.effects[choice.spec][1]
        names = {choice.name for choice in selection}
        for pair, factor in self.together.items():
            lost *= factor if pair <= names else 1.0
        if lost > self.budget + 1e-12:
            return Trial(written(selection), LOSSY, "over", 1 - lost, lost)
        return Trial(written(selection), MEASURED, "", 1 - lost, lost, time, time, time, time)

    def evaluate(self, selections: Sequence[Selection]) -> list[Trial]:
        return [self.trial(item) for item in selections]
