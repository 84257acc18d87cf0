"""What the planner knows of one pipeline, and what it may choose from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tersor.context import Pass

MEASURED, LOSSY, IDLE, FAILED = "measured", "too lossy", "nothing to do", "failed"


@dataclass(frozen=True)
class Choice:
    """One setting of one pass.

    Attributes:
        name: of the pass.
        level: its position among the pass's settings, the mildest first.
        item: the pass.
        spec: as it is written in a pipeline.
    """

    name: str
    level: int
    item: Pass
    spec: str


Selection: TypeAlias = tuple[Choice, ...]
"""Choices of different passes, in the order in which they are applied."""


def written(selection: Selection) -> str:
    """The chosen passes as text; empty for none, which leaves the exact passes alone."""
    return ",".join(choice.spec for choice in selection)


@dataclass(frozen=True)
class Trial:
    """What came out of one pipeline. Times are relative to the original's on its fastest backend.

    Attributes:
        pipeline: the chosen passes as text, without the exact ones around them.
        status: "measured", "too lossy", "nothing to do" or "failed".
        reason: why it is not "measured".
        quality: in the metric or in agreement, ``lost`` the share of the original's that is gone.
        predicted: time by the cost model, or by operations and bytes where the target has no rates.
        ratio, low, high: measured time, and its 95 % confidence interval.
        backend: on which that was measured.
        seconds: what the trial took.
    """

    pipeline: str
    status: str
    reason: str = ""
    quality: float | None = None
    lost: float | None = None
    predicted: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    backend: str = ""
    seconds: float = 0.0

    @property
    def time(self) -> float:
        """Relative time; infinite where there is none."""
        return self.ratio if self.ratio is not None else float("inf")

    @property
    def loss(self) -> float:
        """Share of the quality that is lost, at least 0; infinite where it is not known."""
        return max(self.lost, 0.0) if self.lost is not None else float("inf")
