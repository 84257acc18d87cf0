"""Ways to find the range of an activation, compared on the trained zoo: ``python benchmarks/quantize_ranges.py``.

Prints the table of decision 8: for each model the error that int8 adds to the outputs on data that was not used for
calibration, in decibels below the outputs' energy, and the change of the metric in points.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tersor.capture import load
from tersor.context import Context
from tersor.interface import Flat
from tersor.models_zoo import catalog
from tersor.passes import EXACT
from tersor.passes.quantize import Quantize
from tersor.program import Program
from tersor.quant.ranges import METHODS
from tersor.refresh import refresh
from tersor.spec import parse

MODELS = ("zoo:digits-cnn", "zoo:digits-mobile", "zoo:digits-vit", "zoo:mnist-cnn", "zoo:text-encoder")
BATCHES = 2


@dataclass(frozen=True)
class Row:
    """One model with one method: signal to noise in decibels, and points of the metric gained."""

    model: str
    method: str
    decibels: float
    points: float

    def __str__(self) -> str:
        return f"| {self.model} | {self.method} | {self.decibels:.1f} dB | {self.points:+.2f} |"


def rows(name: str, methods: Sequence[str]) -> list[Row]:
    """Every method on one model; half of its calibration data is held out."""
    entry, program = catalog.load(name), load(name)
    for item in parse(EXACT):
        item(program, Context())
        refresh(program)
    data = [program.interface.flatten(*_split(item)) for item in list(entry.calibration)[: 2 * BATCHES]]
    given, held = data[: len(data) // 2], data[len(data) // 2 :]
    original = entry.evaluator(program) if entry.evaluator else 0.0
    found = []
    for method in methods:
        made = program.clone()
        Quantize(ranges=method, noise=1.0, anyway=True)(made, Context(calibration=tuple(given)))
        refresh(made)
        points = 100 * (entry.evaluator(made) - original) if entry.evaluator else math.nan
        found.append(Row(name, method, decibels(program, made, held), points))
    return found


def _split(item: object) -> tuple[tuple[object, ...], dict[str, object]]:
    return ((), item) if isinstance(item, dict) else (tuple(item), {})  # type: ignore[arg-type]


def decibels(program: Program, other: Program, inputs: Sequence[Flat]) -> float:
    """Energy of the outputs over that of their difference, on a logarithmic scale."""
    signal = noise = 0.0
    for flat in inputs:
        for true, got in zip(program.run(flat), other.run(flat), strict=True):
            signal += float(true.double().square().sum())
            noise += float((true.double() - got.double()).square().sum())
    return 10 * math.log10(signal / max(noise, 1e-300))


def main() -> None:
    """Print the table as it is computed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    arguments = parser.parse_args()
    print("| model | ranges | signal to noise | metric, points |\n|---|---|---|---|", flush=True)
    for name in arguments.models.split(","):
        for row in rows(name, list(METHODS)):
            print(row, flush=True)


if __name__ == "__main__":
    main()
