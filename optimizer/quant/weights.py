"""Weights of layers as integers: scales, the way they are rounded, and the shift of the outputs that it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.calibrate import Statistics, Tap, statistics
from tersor.interface import Flat
from tersor.program import Program
from tersor.progress import Progress
from tersor.quant.adaround import adaround
from tersor.quant.equalize import expected_shift
from tersor.quant.gptq import gptq
from tersor.quant.grid import Grid, dequantize, spread
from tersor.quant.levels import Levels, min_max, nearest
from tersor.quant.plan import Layer
from tersor.rewrite_values import arguments, fake

ROUNDINGS = ("nearest", "gptq", "adaround")
"""Ways to round weights; the last two minimise the error of the outputs on calibration data."""

SAMPLES = 4096


@dataclass(frozen=True, eq=False)
class Whole:
    """A layer's weight as integers.

    Attributes:
        level: of the weight's shape.
        scale, zero: one per output, [out].
        shift: what rounding adds to each output on average, float64 [out].
    """

    level: Tensor
    scale: Tensor
    zero: Tensor
    shift: Tensor

    @property
    def values(self) -> Tensor:
        """Real numbers, of the weight's shape."""
        return dequantize(self.level, spread(self.scale, self.level, 0), spread(self.zero, self.level, 0))


def of_layers(
    program: Program,
    layers: Sequence[Layer],
    on: Grid,
    rounding: str,
    inputs: Sequence[Flat],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Whole]:
    """The weight of each layer by its name, with one symmetric scale per output."""
    taps = {layer.node.name: _tap(layer) for layer in layers}
    learnt = rounding != "nearest"
    seen = statistics(program, taps.values(), inputs, gram=learnt, samples=SAMPLES, seed=seed, progress=progress)
    return {layer.node.name: _of_layer(layer, on, rounding, seen[taps[layer.node.name]], seed) for layer in layers}


def _tap(layer: Layer) -> Tap:
    spatial = layer.weight.dim() - 2
    read = arguments(layer.node)["input"]
    return Tap(layer.node.name, read.name, fake(read).dim() - 1 - spatial)


def _of_layer(layer: Layer, on: Grid, rounding: str, seen: Statistics, seed: int) -> Whole:
    groups = int(arguments(layer.node).get("groups", 1))
    stacked = layer.weight.flatten(1).unflatten(0, (groups, -1))
    scale, zero = min_max(stacked, on)
    levels = _rounded(stacked, scale, zero, on, rounding, seen, seed)
    level, mean = levels.level.reshape(layer.weight.shape), seen.mean if seen.gram is None else seen.gram_mean
    assert mean is not None
    shift = expected_shift(layer.weight, levels.values.reshape(layer.weight.shape), mean, groups=groups)
    return Whole(level, levels.scale.flatten(), levels.zero.flatten(), shift)


def _rounded(
    weight: Tensor, scale: Tensor, zero: Tensor, on: Grid, rounding: str, seen: Statistics, seed: int
) -> Levels:
    if rounding == "nearest" or seen.gram is None:
        return nearest(weight, scale, zero, on)
    gram = seen.gram if seen.gram.dim() == 3 else seen.gram[None]
    if rounding == "gptq":
        return gptq(weight, gram, on, ranges=(scale, zero))
    with torch.no_grad():
        return adaround(weight, gram, scale, zero, on, seed=seed)
