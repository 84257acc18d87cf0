"""What a criterion is, and the check that every score it gives can be ranked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from tersor.axes.analysis import Axes
from tersor.axes.groups import Group
from tersor.axes.terms import Axis
from tersor.context import Context
from tersor.errors import TersorError
from tersor.interface import Flat
from tersor.program import Program

Scores: TypeAlias = dict[Axis, Tensor]
"""For each axis one number per index, the higher the more worth keeping."""


@runtime_checkable
class Criterion(Protocol):
    """Scores the indices of groups. Any function with this signature is one."""

    def __call__(self, program: Program, axes: Axes, groups: Sequence[Group], context: Context) -> Scores:
        """One score per index of each group's axis, shape [group.size]; deterministic under ``context.seed``."""


@dataclass(frozen=True)
class Checked:
    """A criterion whose scores are known to be one finite number per index, as float64 on the CPU."""

    name: str
    criterion: Criterion

    def __call__(self, program: Program, axes: Axes, groups: Sequence[Group], context: Context) -> Scores:
        """The scores; raises TersorError naming criterion and group where one is missing, misshapen or not finite."""
        given: Any = self.criterion(program, axes, groups, context)
        if not isinstance(given, dict):
            raise TersorError(f"importance {self.name!r} returned {type(given).__name__}", "return {axis: scores}")
        return {group.axis: _checked(self.name, group, given) for group in groups}


def _checked(name: str, group: Group, given: dict[Any, Any]) -> Tensor:
    where = f"importance {name!r} of group {group.name!r} ({group.kind}, {group.size} indices)"
    if group.axis not in given:
        raise TersorError(f"{where} is missing", "return a score for each group that was asked for")
    value = torch.as_tensor(given[group.axis]).detach().to("cpu", torch.float64)
    if value.shape != (group.size,):
        raise TersorError(f"{where} has shape {list(value.shape)}", f"wanted one number per index: [{group.size}]")
    bad = int((~value.isfinite()).sum())
    if bad:
        example = "NaN" if bool(value.isnan().any()) else "infinite"
        raise TersorError(
            f"{where} is not finite for {bad} indices ({example})",
            "look for NaN or infinite weights and calibration inputs, or take another criterion",
        )
    return value


def calibration(program: Program, context: Context, limit: int | None = None) -> tuple[Flat, ...]:
    """The calibration inputs of a context, at most ``limit``; the example inputs where it has none."""
    return (tuple(context.calibration) or (program.inputs,))[:limit]


def normalized(score: Tensor) -> Tensor:
    """Scores divided by their mean, so that groups of different scale can be ranked together; all zero stay so.

    >>> normalized(torch.tensor([1.0, 3.0])).tolist()
    [0.5, 1.5]
    """
    mean = float(score.mean()) if score.numel() else 0.0
    return score / mean if mean > 0 and math.isfinite(mean) else score
