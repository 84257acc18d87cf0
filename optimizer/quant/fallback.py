"""Mixed precision: which layers stay in floating point so that the rest loses no more than is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tersor.interface import Flat
from tersor.program import Program
from tersor.quant.plan import Layer
from tersor.quant.simulate import Rounder, alone, error
from tersor.quant.worth import multiply_adds


def affordable(
    program: Program,
    rounding: Rounder,
    layers: Sequence[Layer],
    inputs: Sequence[Flat],
    wanted: Sequence[Flat],
    limit: float,
) -> tuple[list[Layer], dict[str, float]]:
    """The layers that may be quantized together with at most ``limit`` of error, and the error of each alone.

    Those that add most by themselves leave first, a twentieth at a time, until the rest together are within the limit;
    a limit of 1 is none.
    """
    costs: dict[str, float] = {}
    stay = list(layers)
    if limit >= 1 or error(program, rounding, stay, inputs, wanted) <= limit:
        return stay, costs
    costs = alone(program, rounding, layers, inputs, wanted)
    stay.sort(key=lambda layer: costs[layer.node.name])
    while stay and error(program, rounding, stay, inputs, wanted) > limit:
        del stay[-max(1, len(layers) // 20) :]
    return in_order(stay, layers), costs


def within_budget(
    layers: Sequence[Layer], costs: Mapping[str, float], accepts: Callable[[Sequence[Layer]], bool]
) -> list[Layer]:
    """The most layers that are accepted together, found in about ``2 log2(n)`` trials.

    Layers leave in the order of what they cost for each multiply-add that they bring: one, two, four, ... until the
    rest is accepted, and then as few as by halving. Where nothing is accepted, all layers come back: whoever judges
    the result says why.
    """
    if not layers or accepts(layers):
        return list(layers)
    ranked = sorted(layers, key=lambda layer: -costs[layer.node.name] / max(multiply_adds(layer), 1))
    bad, good = 0, 1
    while good < len(ranked) and not accepts(in_order(ranked[good:], layers)):
        bad, good = good, good * 2
    if good >= len(ranked):
        good = len(ranked)
    while bad + 1 < good:
        middle = (bad + good) // 2
        if accepts(in_order(ranked[middle:], layers)):
            good = middle
        else:
            bad = middle
    return in_order(ranked[good:], layers) if good < len(ranked) else list(layers)


def in_order(chosen: Sequence[Layer], layers: Sequence[Layer]) -> list[Layer]:
    """The chosen ones in the order of all."""
    names = {layer.node.name for layer in chosen}
    return [layer for layer in layers if layer.node.name in names]
