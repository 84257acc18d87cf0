"""`PruneMlp`: remove hidden units of feed-forward blocks, gated ones in both halves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tersor.context import Context
from tersor.passes._prune import Pruning, prune
from tersor.program import Program


@dataclass(frozen=True)
class PruneMlp(Pruning):
    """Remove hidden units of feed-forward blocks, gated ones in both halves.

    Every axis that one linear layer makes and another sums over, and that is neither a head nor the residual stream.
    The options are those of `tersor.passes._prune.Pruning`.
    """

    exact: ClassVar[bool] = False

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        prune(program, context, ("hidden",), self)
