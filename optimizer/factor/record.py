"""What a convolution reads on calibration inputs: moments of its channels, and the mean of each tap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tersor.factor.components import input_tap
from tersor.factor.gradients import Metric, flat_metric
from tersor.factor.layers import Layer
from tersor.factor.observe import Moments, moments, observe
from tersor.factor.tucker import input_root
from tersor.interface import Flat
from tersor.program import Program


@dataclass
class Record:
    """What a convolution reads.

    Attributes:
        layer: the convolution.
        channels: moments of the input channels.
        patches: (in, *kernel) sum of what each tap reads.
        rows: positions that the sum runs over.
    """

    layer: Layer
    channels: Moments | None = None
    patches: torch.Tensor | None = None
    rows: int = 0

    def add(self, args: Sequence[Any], result: torch.Tensor) -> None:
        """Take in one calibration input."""
        sums = self.layer.patch_sums(args[0])
        self.patches = sums if self.patches is None else self.patches + sums
        self.rows += result.numel() // self.layer.outputs

    def bias(self, weight: torch.Tensor) -> torch.Tensor | None:
        """The bias with which another weight gives the same mean output."""
        return self.layer.bias_for(weight, None if self.patches is None else self.patches / self.rows)

    def measures(self, seen: Metric | None) -> tuple[torch.Tensor, Metric]:
        """Root of the inputs' second moments, and the metric of the outputs; without one, errors by their energy."""
        root = input_root(self.channels, self.layer.inputs)
        energy = float((self.layer.weight.double().flatten(2).movedim(1, 2) @ root).norm())
        return root, seen or flat_metric(self.layer.outputs, 1 / max(energy, 1e-150))


def recorded(program: Program, found: Sequence[Layer], calibration: Sequence[Flat]) -> list[Record]:
    """What each of these convolutions reads on the calibration inputs."""
    known = moments(program, [input_tap(layer) for layer in found], calibration)
    records = [Record(layer, known.get(input_tap(layer))) for layer in found]
    observe(program, calibration, {record.layer.name: record.add for record in records})
    return records
