"""`PruneExperts`: remove experts of mixture-of-experts layers with their rows of the router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tersor.context import Context
from tersor.passes._prune import Pruning, prune
from tersor.program import Program


@dataclass(frozen=True)
class PruneExperts(Pruning):
    """Remove experts of mixture-of-experts layers with their rows of the router.

    The router chooses among the experts that remain.
    The options are those of `tersor.passes._prune.Pruning`.
    """

    exact: ClassVar[bool] = False

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        prune(program, context, ("experts",), self)
