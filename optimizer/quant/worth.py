"""Whether integers pay for a layer: what they save in it against what converting numbers for it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

from torch import fx

from tersor.cost.flops import flops
from tersor.cost.shapes import hints
from tersor.quant.placement import Rules
from tersor.quant.plan import Layer, Plan, behind, plan
from tersor.report.summary import count
from tersor.rewrite_values import arguments, fake, key

SWEEPS = 3
"""Removing one layer can make its neighbour an island; so often the row of layers is gone through."""


def multiply_adds(layer: Layer) -> int:
    """Of one layer, at the example sizes."""
    return (flops(layer.node) or 0) // 2


def elements(node: fx.Node) -> int:
    """Of a node's result, at the example sizes."""
    return math.prod(hints(fake(node).shape) or (0,))


def conversions(made: Plan, rules: Rules, size: Callable[[fx.Node], int] = elements) -> int:
    """Numbers that are quantized, or taken back, outside of the kernels of layers, at the example sizes."""
    read = made.readers | {behind(node, rules) for node in made.whole if key(behind(node, rules)) in rules.joined}
    read |= {node for node in made.whole if key(node) in rules.moved}
    total = 0
    for node in made.tensors:
        if node not in made.whole or any(user not in read for user in node.users):
            total += size(node)
    return total


def saving(layer: Layer, rules: Rules) -> float:
    """Multiply-adds in floating point whose time integers save in one layer, without what conversions cost."""
    groups = int(arguments(layer.node).get("groups", 1))
    depthwise = groups > 1 and layer.weight.shape[1] == 1
    return (rules.depthwise if depthwise else rules.saved) * multiply_adds(layer)


def balance(
    layers: Sequence[Layer],
    rules: Rules,
    size: Callable[[fx.Node], int] = elements,
    saved: Callable[[Layer], float] | None = None,
) -> float:
    """Multiply-adds in floating point whose time is saved by computing these layers on integers.

    Args:
        size, saved: `elements` and `saving`, perhaps looked up.
    """
    gained = sum(saving(layer, rules) if saved is None else saved(layer) for layer in layers)
    return gained - rules.conversion * conversions(plan(layers, rules), rules, size)


def paying(layers: Sequence[Layer], rules: Rules) -> tuple[list[Layer], dict[Layer, str]]:
    """The layers to compute on integers, and why the others would cost more than they save.

    An estimate: a row of layers is gone through, and each is left out whose absence makes the rest better. The backend
    measures the whole afterwards.
    """
    stay, reasons = list(layers), dict[Layer, str]()
    if not rules.conversion:
        return stay, reasons
    size, saved = cache(elements), {layer: saving(layer, rules) for layer in layers}
    best = balance(stay, rules, size, saved.__getitem__)
    for _ in range(SWEEPS):
        before = len(stay)
        for layer in list(stay):
            rest = [other for other in stay if other is not layer]
            without = balance(rest, rules, size, saved.__getitem__)
            if without > best:
                reasons[layer] = _reason(layer, without - best + saved[layer], rules)
                stay, best = rest, without
        if len(stay) == before:
            break
    return stay, reasons


def _reason(layer: Layer, converting: float, rules: Rules) -> str:
    converted = max(converting, 0.0) / rules.conversion
    return (
        f"too small, or alone between layers in floating point: converting {count(int(converted))} numbers costs more "
        f"than integers save on {count(multiply_adds(layer))} multiply-adds"
    )
