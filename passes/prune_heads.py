"""`PruneHeads`: remove whole attention heads, groups of heads that share keys, or dimensions inside heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tersor.context import Context
from tersor.passes._prune import Pruning, prune
from tersor.program import Program


@dataclass(frozen=True)
class PruneHeads(Pruning):
    """Remove whole attention heads, groups of heads that share keys, or dimensions inside heads.

    Query heads go with the key and value head they share; rotary pairs go together; the scale of the scores stays what
    it was.
    The options are those of `tersor.passes._prune.Pruning`.

    Attributes:
        inside: also dimensions inside heads.
    """

    exact: ClassVar[bool] = False
    inside: bool = False

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        prune(program, context, ("heads", "head-dim") if self.inside else ("heads",), self)
