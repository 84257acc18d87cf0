"""Scales of activations, from what calibration data shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tersor.calibrate import observe
from tersor.errors import InputError
from tersor.interface import Flat
from tersor.program import Program
from tersor.progress import Progress
from tersor.quant.grid import Grid, affine
from tersor.quant.histogram import Histogram
from tersor.quant.ranges import method

Scale = tuple[Tensor, Tensor]
"""Scale and zero point."""


def of_activations(
    program: Program,
    names: Iterable[str],
    on: Grid,
    ranges: str,
    inputs: Sequence[Flat],
    progress: Progress | None = None,
) -> dict[str, Scale]:
    """One scale for each named node's result; raises InputError where calibration makes one NaN or infinite."""
    seen = {name: Histogram() for name in names}
    observe(program, {name: item.add for name, item in seen.items()}, inputs, progress=progress)
    found = {}
    for name, item in seen.items():
        if item.bad:
            raise InputError(
                f"the calibration inputs make {item.bad} values of {name} NaN or infinite",
                "look for such values in the calibration data; they cannot be quantized",
            )
        low, high = method(ranges)(item, on, False)
        found[name] = affine(torch.tensor(low), torch.tensor(high), on, symmetric=False)
    return found
