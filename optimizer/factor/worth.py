"""Whether a factorised layer is predicted to be faster: work and traffic in one number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tersor.target import Target

Setting = TypeVar("Setting")


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
    return sum(stage.flops + target.balance * element * (stage.weight + stage.moved) for stage in stages)


def paying(
    whole: Stage,
    settings: Iterable[Setting],
    stages: Callable[[Setting], Sequence[Stage]],
    target: Target,
    margin: float,
    element: int = 4,
) -> list[Setting]:
    """Those settings whose chain of layers is predicted to take less than ``margin`` of the whole layer's time."""
    limit = margin * work([whole], target, element)
    return [setting for setting in settings if work(stages(setting), target, element) < limit]
