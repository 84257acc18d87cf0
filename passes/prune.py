"""`Prune`: remove whatever is worth least, of every kind at once, under one budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self, get_args

from tersor.axes.groups import Kind
from tersor.context import Context
from tersor.passes._prune import Pruning, prune
from tersor.program import Program
from tersor.target import Target

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""What the planner may choose from."""


@dataclass(frozen=True)
class Prune(Pruning):
    """Remove channels, heads, head dimensions, hidden units, experts and dimensions of the stream under one budget.

    The allocation weighs kinds against each other, which a row of single passes cannot.
    The options are those of `tersor.passes._prune.Pruning`.

    Attributes:
        kinds: which kinds of axes may lose indices, joined by "+"; "all" for every one.
    """

    exact: ClassVar[bool] = False
    kinds: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = set(self.kinds.split("+")) - {"all", *get_args(Kind)}
        if wrong:
            raise ValueError(f"kinds {sorted(wrong)} are not known, wanted some of {', '.join(get_args(Kind))}")

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """Shares of the operations to remove."""
        return tuple(cls(ratio=ratio, of="flops") for ratio in RATIOS)

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        chosen = get_args(Kind) if "all" in self.kinds.split("+") else self.kinds.split("+")
        prune(program, context, chosen, self)
