"""What lossy passes spend from: how good a program still is, against the original, and how much may be lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tersor.errors import MetricError, first_line
from tersor.interface import Flat
from tersor.program import Program

Metric = Callable[[Callable[..., Any]], float]
"""Takes a callable with the original's signature, gives a number; higher is better."""


@dataclass(frozen=True)
class Data:
    """Inputs for lossy passes.

    Attributes:
        calibration: what statistics are taken from.
        held_out: what agreement is judged on; other inputs, unless there is only one.
    """

    calibration: tuple[Flat, ...]
    held_out: tuple[Flat, ...]

    @classmethod
    def split(cls, example: Flat, given: Sequence[Flat]) -> Data:
        """Every fourth of the given inputs is held out; with none or one given, the example inputs serve.

        >>> a, b = (torch.zeros(1),), (torch.ones(1),)
        >>> Data.split(a, [b]).held_out == (a,)
        True
        """
        if not given:
            return cls((example,), (example,))
        held = tuple(given[3::4]) or (example,)
        rest = tuple(item for index, item in enumerate(given) if index % 4 != 3)
        return cls(rest, held)


@dataclass(frozen=True)
class Quality:
    """A measure, what the original reaches in it, and the least that is accepted.

    Attributes:
        name: "metric" or "agreement".
        measure: of a program; higher is better.
        original: the original's own value.
        budget: share of it that may be lost in total.
    """

    name: str
    measure: Callable[[Program], float]
    original: float
    budget: float

    @classmethod
    def of(cls, original: Program, metric: Metric | None, budget: float, data: Data) -> Quality:
        """Measure the original; raises MetricError where the metric fails on it."""
        if metric is None:
            return cls("agreement", agreement_with(original, data.held_out), 1.0, budget)
        measure = _checked(metric)
        return cls("metric", measure, measure(original), budget)

    def lost(self, value: float) -> float:
        """Share of the original's value that is lost; negative where it is better."""
        return (self.original - value) / max(abs(self.original), 1e-12)

    def problem(self, value: float) -> str | None:
        """Why a program is not accepted; None where it is."""
        lost = self.lost(value)
        if lost <= self.budget + 1e-12:
            return None
        return (
            f"{self.name} falls from {self.original:.4g} to {value:.4g}, a loss of {lost:.2%}, and the budget is "
            f"{self.budget:.2%}; give a larger budget, more calibration data or a gentler setting"
        )


def _checked(metric: Metric) -> Callable[[Program], float]:
    def measure(program: Program) -> float:
        try:
            value = float(metric(program))
        except Exception as error:
            line = first_line(error)
            raise MetricError(
                f"the metric raised {type(error).__name__}: {line}", "it is called with a model and returns a number"
            ) from error
        if not math.isfinite(value):
            raise MetricError(f"the metric gave {value}", "it must return a finite number, higher is better")
        return value

    return measure


def agreement_with(original: Program, inputs: Sequence[Flat]) -> Callable[[Program], float]:
    """How closely a program's outputs follow the original's: 1 is equal, 0 as far away as all zeros.

    Floating outputs count by ``1 - |a - b| / |b|`` in the Euclidean norm over all inputs, others by the share of equal
    elements; outputs count alike.
    """
    wanted = [original.run(flat) for flat in inputs]

    def measure(program: Program) -> float:
        got = [program.run(flat) for flat in inputs]
        scores = [
            _agreement([row[place] for row in wanted], [row[place] for row in got]) for place in range(len(wanted[0]))
        ]
        return sum(scores) / len(scores) if scores else 1.0

    return measure


def _agreement(wanted: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> float:
    if not wanted[0].is_floating_point():
        equal = sum(int((a == b).sum()) for a, b in zip(wanted, got, strict=True))
        return equal / max(sum(a.numel() for a in wanted), 1)
    error = sum(
        float((a.double() - b.double()).square().nan_to_num(0.0).sum()) for a, b in zip(wanted, got, strict=True)
    )
    energy = sum(float(a.double().square().nan_to_num(0.0).sum()) for a in wanted)
    broken = any(not torch.equal(a.isfinite(), b.isfinite()) for a, b in zip(wanted, got, strict=True))
    return 0.0 if broken else max(0.0, 1.0 - math.sqrt(error / max(energy, 1e-30)))
