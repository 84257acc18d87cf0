"""What calibration data says of layers: which outputs matter, and along which directions they vary."""

from __future__ import annotations

from collections.abc import Sequence

from tersor.calibrate import Tap
from tersor.context import Context
from tersor.factor.gradients import Metric, importances, metric
from tersor.factor.layers import Layer
from tersor.factor.observe import channel_rows, last_rows, moments
from tersor.factor.principal import Components, of_inputs, of_outputs, of_weight
from tersor.program import Program

WIDEST = 8192
"""Wider than this on its narrower side, a layer's statistics would take gigabytes; its weights decide alone."""


def metrics(program: Program, context: Context, found: Sequence[Layer]) -> list[Metric | None]:
    """For each layer which errors of its result matter to the program's outputs; None for all where that is unknown."""
    rows = {layer.name: last_rows if layer.is_linear else channel_rows for layer in found}
    known = importances(program, context.calibration, rows, context.seed)
    return [metric(known[layer.name]) if known else None for layer in found]


def components(
    program: Program, context: Context, found: Sequence[Layer], seen: Sequence[Metric | None]
) -> list[Components]:
    """Principal components of each layer's outputs, from the narrower side of the layer."""
    taps = [_tap(layer) for layer in found]
    known = moments(program, [tap for tap in taps if tap is not None], context.calibration)
    made = []
    for layer, tap, item in zip(found, taps, seen, strict=True):
        if tap is None or tap not in known:
            made.append(of_weight(layer.matrix, item))
        elif tap.operand == layer.name:
            made.append(of_outputs(layer.matrix, known[tap], item))
        else:
            made.append(of_inputs(layer.matrix, layer.bias, known[tap], item))
    return made


def _tap(layer: Layer) -> Tap | None:
    """The outputs of the layer, or its inputs where a linear layer has fewer of them."""
    inner = layer.is_linear and layer.inputs < layer.outputs
    if (layer.inputs if inner else layer.outputs) > WIDEST:
        return None
    return input_tap(layer) if inner else Tap(layer.name, layer.name, -1 if layer.is_linear else 1)


def input_tap(layer: Layer) -> Tap:
    """The input features or channels of a layer."""
    return Tap(layer.name, layer.source.name, -1 if layer.is_linear else 1)
