"""`PruneWidth`: remove dimensions of the residual stream, everywhere at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tersor.context import Context
from tersor.passes._prune import Pruning, prune
from tersor.program import Program


@dataclass(frozen=True)
class PruneWidth(Pruning):
    """Remove dimensions of the residual stream, everywhere at once.

    Normalisations over the stream are computed over what remains, which changes their statistics.
    The options are those of `tersor.passes._prune.Pruning`.
    """

    exact: ClassVar[bool] = False

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        prune(program, context, ("width",), self)
