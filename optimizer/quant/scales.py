"""Scales of activations, from what calibration data shows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tersor.errors import InputError
from tersor.quant.grid import Grid, affine
from tersor.quant.histogram import Histogram
from tersor.quant.ranges import method

Scale = tuple[Tensor, Tensor]
"""Scale and zero point."""


def of_activations(
    seen: Mapping[str, Histogram], on: Grid, ranges: str, *, symmetric: bool = False
) -> dict[str, Scale]:
    """One scale for each named node's result, from the histogram of what calibration showed of it.

    Raises:
        InputError: calibration shows no value of one, or makes one NaN or infinite.
    """
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
