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
    *,
    symmetric: bool = False,
) -> dict[str, Scale]:
    """One scale for each named node's result.

    Raises:
        InputError: calibration shows no value of one, or makes one NaN or infinite.
    """
    seen = {name: Histogram() for name in names}
    observe(program, {name: item.add for name, item in seen.items()}, inputs, progress=progress)
    found = {}
    for name, item in seen.items():
        if item.bad:
            raise InputError(
                f"the calibration inputs make {item.bad} values of {name} NaN or infinite",
                "look for such values in the calibration data; they cannot be quantized",
            )
        if not item.seen:
            raise InputError(
                f"the calibration inputs show no value of {name}", "give inputs with at least one sample each"
            )
        low, high = method(ranges)(item, on, symmetric)
        found[name] = affine(torch.tensor(low), torch.tensor(high), on, symmetric=symmetric)
    return found
