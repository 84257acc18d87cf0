"""Weights of layers as integers: scales, the way they are rounded, and the shift of the outputs that it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from tersor.quant.seen import Mean, look
from tersor.rewrite_values import arguments

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
    means: Mapping[str, Mean] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Whole]:
    """The weight of each layer by its name, with one symmetric scale per output.

    Args:
        means: of what is read, by `channels`, where a run has shown them; rounding to nearest needs no more.
    """
    if rounding != "nearest":
        taps = {layer.node.name: Tap(layer.node.name, *channels(layer)) for layer in layers}
        seen = statistics(program, taps.values(), inputs, gram=True, samples=SAMPLES, seed=seed, progress=progress)
        return {layer.node.name: _learnt(layer, on, rounding, seen[taps[layer.node.name]], seed) for layer in layers}
    if means is None:
        means = look(program, (), dict(map(channels, layers)), inputs, progress)[1]
    return {layer.node.name: _nearest(layer, on, means[channels(layer)[0]].value) for layer in layers}


def channels(layer: Layer) -> tuple[str, int]:
    """The node that a layer reads, by name, and the dimension of its channels."""
    read = arguments(layer.node)["input"]
    return read.name, 1 - layer.weight.dim()


def _nearest(layer: Layer, on: Grid, mean: Tensor) -> Whole:
    stacked, groups = _stacked(layer)
    return _whole(layer, nearest(stacked, *min_max(stacked, on), on), mean, groups)


def _learnt(layer: Layer, on: Grid, rounding: str, seen: Statistics, seed: int) -> Whole:
    stacked, groups = _stacked(layer)
    scale, zero = min_max(stacked, on)
    mean = seen.mean if seen.gram is None else seen.gram_mean
    assert mean is not None
    return _whole(layer, _rounded(stacked, scale, zero, on, rounding, seen, seed), mean, groups)


def _stacked(layer: Layer) -> tuple[Tensor, int]:
    """The weight as one matrix for each group of channels, and how many."""
    groups = int(arguments(layer.node).get("groups", 1))
    return layer.weight.flatten(1).unflatten(0, (groups, -1)), groups


def _whole(layer: Layer, levels: Levels, mean: Tensor, groups: int) -> Whole:
    level = levels.level.reshape(layer.weight.shape)
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
