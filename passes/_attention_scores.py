"""From a softmax back to the product of queries and keys: what happens to the scores on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx

from tersor.passes._attention_layout import is_copy, is_view
from tersor.passes._attention_product import Product, product_of
from tersor.program import Program
from tersor.rewrite_values import arguments, key, positional, same_shape, scalar, tensor

HIDDEN = -1e3
"""Scores at or below this are taken for masked: their exponential vanishes beside any score above -900."""


@dataclass(frozen=True)
class View:
    """The scores in another layout or dtype, or the same."""

    node: fx.Node


@dataclass(frozen=True)
class Scale:
    """The scores times a number."""

    by: float


@dataclass(frozen=True)
class Factor:
    """The scores times a tensor, or divided by it."""

    by: fx.Node
    divides: bool = False


@dataclass(frozen=True)
class Bias:
    """The scores plus a multiple of a tensor."""

    added: fx.Node
    times: float = 1.0


@dataclass(frozen=True)
class Mask:
    """The scores where ``condition`` is ``keep``, ``fill`` elsewhere."""

    condition: fx.Node
    keep: bool
    fill: float


@dataclass(frozen=True)
class Floor:
    """The scores, but at least a number that is far below any."""

    low: float


Step: TypeAlias = View | Scale | Factor | Bias | Mask | Floor


@dataclass(frozen=True)
class Trail:
    """The product, and what happens to it until the softmax, the first step first.

    Attributes:
        nodes: all nodes on the way, which a fused attention leaves out.
    """

    product: Product
    steps: tuple[Step, ...] = ()
    nodes: tuple[fx.Node, ...] = ()


def trail(program: Program, node: Any) -> Trail | str:
    """The way from a product to a node; or the first thing on the way back that attention does not have."""
    found = product_of(program, node)
    if found is not None:
        return Trail(found, (), (node,))
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return f"the scores are {node}, an input or a weight"
    ways = _inward(program, node)
    if isinstance(ways, str):
        return ways
    refusal = ""
    for inner, step, others in ways:
        rest = trail(program, inner)
        if isinstance(rest, Trail):
            return Trail(rest.product, (*rest.steps, step), (*rest.nodes, *others, node))
        refusal = refusal or rest
    return refusal or f"the scores come from {key(node)}, not from a product of queries and keys"


Way: TypeAlias = tuple[fx.Node, Step, tuple[fx.Node, ...]]


def _inward(program: Program, node: fx.Node) -> list[Way] | str:
    name = key(node)
    if is_view(node) and name not in ("repeat", "repeat_interleave"):
        return [(positional(node)[0], View(node), ())]
    reader = _READERS.get(name)
    return reader(program, node) if reader else []


def _scaled(program: Program, node: fx.Node) -> list[Way] | str:
    first, second, *rest = arguments(node).values()
    if any(item is not None for item in rest):
        return "the scores are divided with rounding"
    divides = key(node) == "div"
    ways: list[Way] = []
    for x, other in ((first, second),) if divides else ((first, second), (second, first)):
        number = scalar(program, other)
        if not _is_whole(x, node):
            continue
        if number is not None and number:
            ways.append((x, Scale(1 / float(number) if divides else float(number)), ()))
        elif isinstance(other, fx.Node) and tensor(other) is not None:
            ways.append((x, Factor(other, divides), ()))
    return ways


def _is_whole(x: Any, node: fx.Node) -> bool:
    """Whether an operand has the result's shape, and is not broadcast to it."""
    found, out = tensor(x), tensor(node)
    return found is not None and out is not None and same_shape(found.shape, out.shape)


def _added(program: Program, node: fx.Node) -> list[Way] | str:
    first, second, alpha = arguments(node).values()
    sign = -float(alpha) if key(node) == "sub" else float(alpha)
    ways: list[Way] = []
    peak = _peak(second, first) if key(node) == "sub" and alpha == 1 else None
    if peak is not None:
        return [(first, Scale(1.0), peak)]
    if _is_whole(first, node):
        ways.append((first, *_shift(program, second, sign)))
    if key(node) == "add" and alpha == 1 and _is_whole(second, node):
        ways.append((second, *_shift(program, first, 1.0)))
    return ways


def _shift(program: Program, other: Any, times: float) -> tuple[Step, tuple[fx.Node, ...]]:
    """One number added to all scores changes no softmax."""
    return (Bias(other, times) if scalar(program, other) is None else Scale(1.0)), ()


def _peak(peak: Any, x: Any) -> tuple[fx.Node, ...] | None:
    """The nodes of a maximum over ``x``, which softmax is indifferent to; None for anything else."""
    if key(peak) == "getitem" and key(peak.args[0]) == "max" and peak.args[1] == 0 and peak.args[0].args[0] is x:
        return peak.args[0], peak
    return (peak,) if key(peak) in ("amax", "max") and peak.args[0] is x else None


def _chosen(program: Program, node: fx.Node) -> list[Way] | str:
    condition, first, second = positional(node)[:3]
    ways: list[Way] = []
    for x, other, keep in ((first, second, True), (second, first, False)):
        fill = number(program, other)
        if fill is not None and _is_whole(x, node):
            if not fill <= HIDDEN:
                return f"masked scores are set to {fill:g}, which does not hide them"
            ways.append((x, Mask(condition, keep, fill), ()))
    return ways or "scores are chosen from two computed tensors"


def _filled(program: Program, node: fx.Node) -> list[Way] | str:
    x, condition, value = positional(node)[:3]
    fill = number(program, value)
    if fill is None or not fill <= HIDDEN:
        return f"masked scores are set to {value}, which does not hide them"
    return [(x, Mask(condition, False, fill), ())]


def _clamped(program: Program, node: fx.Node) -> list[Way] | str:
    x, low, *high = positional(node)
    if key(node) == "max" and tensor(low) is None:
        return []
    bound = scalar(program, low)
    upper = scalar(program, high[0]) if high and high[0] is not None else math.inf
    if bound is None or not bound <= HIDDEN or upper is None or upper < -HIDDEN:
        return f"scores are clamped to at least {low}, which attention has not"
    return [(x, Floor(float(bound)), ())]


def _capped(program: Program, node: fx.Node) -> list[Way] | str:
    return "scores are capped by tanh, which scaled_dot_product_attention has not"


_READERS = {
    "mul": _scaled,
    "div": _scaled,
    "add": _added,
    "sub": _added,
    "where": _chosen,
    "masked_fill": _filled,
    "clamp": _clamped,
    "clamp_min": _clamped,
    "maximum": _clamped,
    "max": _clamped,
    "tanh": _capped,
}


def number(program: Program, node: Any) -> float | None:
    """The one number that a literal, a weight, or a tensor filled with it holds everywhere."""
    found = scalar(program, node)
    if found is not None:
        return float(found)
    weight = program.weight(node)
    if weight is not None and weight.numel() and not weight.is_complex():
        same = bool((weight == weight.reshape(-1)[0]).all())
        return float(weight.reshape(-1)[0]) if same else None
    name = key(node)
    if name in ("full", "full_like", "new_full"):
        return number(program, arguments(node)["fill_value"])
    if name in ("zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones"):
        return 0.0 if "zeros" in name else 1.0
    if name == "scalar_tensor":
        return number(program, positional(node)[0])
    return number(program, positional(node)[0]) if is_view(node) or is_copy(node) else None


def dtype_of(node: fx.Node) -> torch.dtype:
    """The dtype of a tensor."""
    found = tensor(node)
    assert found is not None
    return found.dtype
