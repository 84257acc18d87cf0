"""What a repair tells of each node it looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerRecord:
    """One node, and how far it was from the original before and after.

    Attributes:
        node: its name.
        method: "least-squares", "bias" or "batch-norm".
        before, after: error on inputs that were not fitted on, as a share of the energy of what was wanted: squared
            error for layers; for batch norms squared distance of means and deviations.
        rows: how many rows it was fitted on.
        damping: the largest that was chosen; infinite where only the bias moved, 0 where there is none.
        reason: why nothing was changed; empty where something was.
    """

    node: str
    method: str
    before: float
    after: float
    rows: int = 0
    damping: float = 0.0
    reason: str = ""

    @property
    def kept(self) -> bool:
        """Whether the node was changed."""
        return not self.reason
