"""The record of a quantized program: every layer, what it costs, and why some stay in floating point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tersor.context import origin
from tersor.interface import Flat
from tersor.program import Program
from tersor.quant.plan import Layer
from tersor.quant.seen import products, work
from tersor.quant.simulate import Attribution, Rounder, attribute
from tersor.quant.worth import multiply_adds
from tersor.report.model import LayerError, PrecisionRecord

WORK = 1e11
"""Floating-point operations that the search for where an error comes from may take: some seconds on two cores."""


def precision(
    program: Program,
    rounding: Rounder,
    layers: Sequence[Layer],
    taken: Sequence[Layer],
    given_back: Mapping[str, float | None],
    flat: Flat,
    weights: tuple[str, str],
) -> PrecisionRecord:
    """What the report says of a quantized program.

    Args:
        layers: every layer that could be quantized, in execution order.
        taken: those that are.
        given_back: those that stay in floating point to save precision, each with its error alone where that is known.
        flat: the input that shows the errors.
        weights: their format, and why where the user did not choose it.
    """
    found = attribute(program, rounding, taken, flat, _most(program, flat)) if taken else Attribution()
    names = {layer.node.name for layer in taken}
    rows = [_row(layer, found, share(program, layer), names, given_back) for layer in layers]
    returned = sum(row.work for row in rows if row.node in given_back)
    return PrecisionRecord(weights[0], rounding.on.name, weights[1], returned, rows)


def share(program: Program, layer: Layer) -> float:
    """A layer's share of the program's multiply-adds, at the example sizes."""
    return multiply_adds(layer) / max(products(program) / 2, 1)


def _row(
    layer: Layer, found: Attribution, work: float, taken: set[str], given_back: Mapping[str, float | None]
) -> LayerError:
    name = layer.node.name
    if name in taken:
        errors = (found.local.get(name), found.alone.get(name), found.together.get(name))
        return LayerError(name, origin(layer.node), work, True, "", *errors)
    reason = "to save precision" if name in given_back else "not chosen"
    return LayerError(name, origin(layer.node), work, False, reason, alone=given_back.get(name))


def _most(program: Program, flat: Flat) -> int:
    """How many layers can be looked at one by one, with two runs each."""
    return max(4, math.floor(WORK / (2 * max(work(program, flat), 1.0))))
