"""Mixed precision: which layers stay in floating point so that the rest loses no more than is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tersor.interface import Flat
from tersor.program import Program
from tersor.quality import Quality
from tersor.quant.plan import Layer
from tersor.quant.simulate import Rounder, alone, error
from tersor.quant.worth import multiply_adds
from tersor.refresh import refresh

Put = Callable[[Program, Sequence[Layer]], None]
"""Quantizes layers of a program in place."""

SPOILS = 2.0
"""A layer spoils the outputs where it makes this many times as much of the error as of the work."""


def fitting(
    program: Program,
    rounding: Rounder,
    layers: Sequence[Layer],
    inputs: Sequence[Flat],
    put: Put,
    *,
    noise: float,
    relief: float = 0.0,
    quality: Quality | None = None,
) -> tuple[list[Layer], dict[str, float]]:
    """The layers that may be quantized, and the error of each alone, where that was looked at.

    Args:
        program: where the layers are; not edited.
        rounding: what each is rounded to.
        layers: that could be quantized.
        inputs: on which errors are compared.
        put: how they are quantized.
        noise: see `affordable`.
        relief: share of the multiply-adds that `relieved` may give back; not where ``noise`` is no limit.
        quality: whose budget must hold, see `within_budget`; None asks for nothing.
    """
    wanted = [program.run(flat) for flat in inputs]
    stay, costs = affordable(program, rounding, layers, inputs, wanted, noise)

    def each() -> dict[str, float]:
        return costs or alone(program, rounding, layers, inputs[:1], wanted[:1])

    if len(stay) > 1 and relief and noise < 1:
        costs = each()
        stay = relieved(program, rounding, stay, inputs, wanted, costs, relief)
    if not stay or accepted(program, stay, put, quality):
        return stay, costs
    costs = each()
    return within_budget(stay, costs, lambda chosen: accepted(program, chosen, put, quality)), costs


def accepted(program: Program, layers: Sequence[Layer], put: Put, quality: Quality | None) -> bool:
    """Whether the program with only these layers quantized is within the budget."""
    if quality is None or quality.budget >= 1:
        return True
    return quality.problem(quality.measure(partly_quantized(program, layers, put))) is None


def partly_quantized(program: Program, layers: Sequence[Layer], put: Put) -> Program:
    """A copy of the program with only these layers quantized."""
    made = program.clone()
    nodes = {node.name: node for node in made.nodes}
    moved = [
        replace(layer, node=nodes[layer.node.name], source=nodes[layer.source.name], result=nodes[layer.result.name])
        for layer in layers
    ]
    put(made, moved)
    return refresh(made)


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
    ranked = by_worth(layers, costs)
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


def relieved(
    program: Program,
    rounding: Rounder,
    layers: Sequence[Layer],
    inputs: Sequence[Flat],
    wanted: Sequence[Flat],
    costs: Mapping[str, float],
    share: float,
) -> list[Layer]:
    """All layers but the few that spoil the outputs, where leaving those out at least halves the error of the rest.

    A layer may leave where its share of what all cost alone is `SPOILS` times its share of the multiply-adds; they
    leave in the order of what they cost for each multiply-add, until those of ``share`` of all are given back.
    """
    work, cost = sum(map(multiply_adds, layers)), sum(costs[layer.node.name] for layer in layers)
    left, leaving = share * work, set()
    for layer in by_worth(layers, costs):
        own = multiply_adds(layer)
        if own <= left and costs[layer.node.name] * work >= SPOILS * cost * own:
            leaving.add(layer.node.name)
            left -= own
    stay = [layer for layer in layers if layer.node.name not in leaving]
    if not leaving or not stay:
        return list(layers)
    before, after = (error(program, rounding, chosen, inputs, wanted) for chosen in (layers, stay))
    return stay if after <= before / 2 else list(layers)


def by_worth(layers: Sequence[Layer], costs: Mapping[str, float]) -> list[Layer]:
    """Those first that cost most for each multiply-add that they bring."""
    return sorted(layers, key=lambda layer: -costs[layer.node.name] / max(multiply_adds(layer), 1))


def in_order(chosen: Sequence[Layer], layers: Sequence[Layer]) -> list[Layer]:
    """The chosen ones in the order of all."""
    names = {layer.node.name for layer in chosen}
    return [layer for layer in layers if layer.node.name in names]
