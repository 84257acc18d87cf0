"""`PruneChannels`: remove channels of convolutional networks wherever they are the same thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tersor.context import Context
from tersor.passes._prune import Pruning, prune
from tersor.program import Program


@dataclass(frozen=True)
class PruneChannels(Pruning):
    """Remove channels of convolutional networks wherever they are the same thing.

    Channels that convolutions, batch norms, depthwise and grouped convolutions, concatenations and residual sums share
    are cut together.
    The options are those of `tersor.passes._prune.Pruning`.
    """

    exact: ClassVar[bool] = False

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        prune(program, context, ("channels",), self)
