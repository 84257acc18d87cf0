"""Whether a factorised layer is predicted to be faster: work and traffic in one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tersor.target import Target

BALANCE = {"cpu": 8.0, "cuda": 100.0}
"""Floating-point operations that a device does while it moves one byte, by device type (Williams et al., 2009)."""


@dataclass(frozen=True)
class Stage:
    """One layer of a chain.

    Attributes:
        rows: positions at which its weight is applied.
        weight: elements of its weight.
        moved: elements that it reads and writes besides its weight.
    """

    rows: int
    weight: int
    moved: int

    @property
    def flops(self) -> int:
        """Floating-point operations, a multiply-add as two."""
        return 2 * self.rows * self.weight


def work(stages: Sequence[Stage], target: Target, element: int = 4) -> float:
    """Predicted time in units of one floating-point operation on the target.

    Operations and bytes are added as if nothing overlapped. Launch costs are left out: they belong to the whole
    program's prediction.
    """
    balance = BALANCE.get(target.device, BALANCE["cpu"])
    return sum(stage.flops + balance * element * (stage.weight + stage.moved) for stage in stages)
