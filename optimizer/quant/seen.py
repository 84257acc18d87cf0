"""What quantization looks at: which calibration inputs, and one run over them that shows ranges and means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from tersor.calibrate import observe
from tersor.cost.flops import program_flops
from tersor.interface import Flat
from tersor.program import Program
from tersor.progress import Progress
from tersor.quant.histogram import Histogram

WORK = 3e11
"""Floating-point operations that one run over calibration inputs may take: some seconds on two cores."""

LEAST = 8
"""So many inputs are looked at, whatever they take."""


class Mean:
    """The mean of each channel of a value, summed up in double precision.

    Attributes:
        dim: of channels, negative from the end.
        count: how many samples there were.
    """

    def __init__(self, dim: int) -> None:
        self.dim, self.count, self.total = dim, 0, torch.zeros(())

    def add(self, value: Tensor) -> None:
        """Take in a value, all of whose other dimensions are samples."""
        dim = self.dim % value.dim()
        others = [place for place in range(value.dim()) if place != dim]
        self.count += value.numel() // max(value.shape[dim], 1)
        self.total = self.total + (value.double() if not others else value.sum(others).double())

    @property
    def value(self) -> Tensor:
        """Float64 of shape [channels]."""
        return self.total / max(self.count, 1)


def look(
    program: Program,
    ranges: Iterable[str],
    means: Mapping[str, int],
    inputs: Sequence[Flat],
    progress: Progress | None = None,
) -> tuple[dict[str, Histogram], dict[str, Mean]]:
    """Run the program once on every input.

    Args:
        ranges: names of nodes whose results go into a histogram.
        means: names of nodes and the dimension of their results that counts channels.
    """
    histograms, averages = {name: Histogram() for name in ranges}, {name: Mean(dim) for name, dim in means.items()}
    adders: dict[str, list[Callable[[Tensor], None]]] = defaultdict(list)
    for name, histogram in histograms.items():
        adders[name].append(histogram.add)
    for name, mean in averages.items():
        adders[name].append(mean.add)
    observe(program, {name: _all(items) for name, items in adders.items()}, inputs, progress=progress)
    return histograms, averages


def _all(adders: Sequence[Callable[[Tensor], None]]) -> Callable[[Tensor], None]:
    def add(value: Tensor) -> None:
        for item in adders:
            item(value)

    return add


def work(program: Program, flat: Flat) -> float:
    """Floating-point operations of a run, as if they grew with the elements of the inputs."""
    size = sum(value.numel() for value in flat) / max(sum(value.numel() for value in program.inputs), 1)
    return products(program) * size


def products(program: Program) -> int:
    """Floating-point operations of all products at the example sizes; counted once until the program changes."""
    if "products" not in program.derived:
        program.derived["products"] = program_flops(program).products
    return int(program.derived["products"])


def enough(program: Program, inputs: Sequence[Flat], most: float = WORK, least: int = LEAST) -> list[Flat]:
    """Calibration inputs, evenly chosen, that together take about ``most`` operations; at least ``least`` of them."""
    total = sum(work(program, flat) for flat in inputs)
    count = max(least, int(len(inputs) * most / max(total, 1.0)))
    if count >= len(inputs):
        return list(inputs)
    return [inputs[place * len(inputs) // count] for place in range(count)]


def smallest(inputs: Sequence[Flat], count: int) -> list[Flat]:
    """The inputs with fewest elements, for what is run many times."""
    return sorted(inputs, key=lambda flat: sum(value.numel() for value in flat))[:count]
