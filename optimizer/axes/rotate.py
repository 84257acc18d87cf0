"""Rotating: a matrix applied to an axis everywhere at once, where all that touches the axis is linear in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from tersor.axes.analysis import Axes
from tersor.axes.flow import Dims, Value
from tersor.axes.terms import Axis, Term, leaves, resolve, size
from tersor.convolution import CONVOLUTIONS
from tersor.errors import RewriteError
from tersor.program import Program
from tersor.rewrite_values import arguments, key

_MOVES = frozenset(
    {"reshape", "view", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze", "select", "slice",
     "expand", "split", "split_with_sizes", "unbind", "getitem", "clone", "contiguous", "alias", "detach", "dropout",
     "cat", "stack", "index_select", "_unsafe_view", "neg", "embedding"}
)  # fmt: skip
"""Operators that give out what they took in, or its negative."""
_SUMS = frozenset({"mean", "sum", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"})
_NORMS = frozenset({"layer_norm", "rms_norm"})


def turned(value: Tensor, dim: int, term: Term, turns: Mapping[Axis, Tensor]) -> Tensor:
    """A tensor whose dimension is multiplied by the matrix of each axis in it: ``sum_i value[i] turn[i, j]`` at j.

    >>> inner = Axis(2)
    >>> turned(torch.tensor([[1.0, 2.0]]), 1, inner, {inner: torch.tensor([[0.0, 1.0], [1.0, 0.0]])}).tolist()
    [[2.0, 1.0]]
    """
    term = resolve(term)
    if isinstance(term, Axis):
        return value if term not in turns else (value.movedim(dim, -1) @ turns[term]).movedim(-1, dim)
    if not set(leaves(term)) & set(turns):
        return value
    if hasattr(term, "parts"):
        pieces = value.split([int(size(part)) for part in term.parts], dim)
        made = [turned(piece, dim, part, turns) for piece, part in zip(pieces, term.parts, strict=True)]
        return torch.cat(made, dim)
    sizes = [int(size(factor)) for factor in term.factors]
    value = value.unflatten(dim, sizes)
    for place, factor in enumerate(term.factors):
        value = turned(value, dim + place, factor, turns)
    return value.flatten(dim, dim + len(sizes) - 1)


def rotate(program: Program, axes: Axes, turns: Mapping[Axis, Tensor]) -> None:
    """Multiply axes by orthogonal matrices in all weights that mention them, in place.

    Where `obstacle` finds nothing, the outputs stay: what makes the axis gives it out turned, and what sums over it
    turns it back. Weights are replaced by new tensors of the same dtype, computed in float64.

    Args:
        turns: float64 [size, size], orthogonal; for an axis that a layer norm runs over it keeps the mean.

    Raises:
        RewriteError: an axis is pinned, or a weight with the axis is not floating.
    """
    for axis in turns:
        if axis.pin:
            raise RewriteError(f"axis {axis} may not be turned: {axis.pin}", "turn free groups only")
    made: dict[int, Tensor] = {}
    for name, dims in axes.weights.items():
        value = program.weights.get(name)
        if not isinstance(value, Tensor) or not any(set(leaves(term)) & set(turns) for term in dims):
            continue
        if not value.is_floating_point():
            raise RewriteError(f"weight {name} is {value.dtype}", "turn floating weights only")
        if id(value) not in made:
            fresh = value.detach().double()
            for dim, term in enumerate(dims):
                fresh = turned(fresh, dim, term, turns)
            made[id(value)] = fresh.to(value.dtype).contiguous()
        program.weights[name] = made[id(value)]
    program.changed()


def touching(program: Program, axes: Axes) -> dict[Axis, list[fx.Node]]:
    """For each axis the nodes that have it in a result or in an operand, in order."""
    found: dict[Axis, list[fx.Node]] = defaultdict(list)
    own = {node: set(_leaves(axes.values.get(node.name))) for node in program.nodes}
    for node in program.nodes:
        for axis in own[node].union(*(own[source] for source in node.all_input_nodes)):
            found[axis].append(node)
    return found


def obstacle(program: Program, axes: Axes, axis: Axis, nodes: Sequence[fx.Node]) -> str:
    """The first thing in graph order that an orthogonal matrix on an axis would change; empty where there is none.

    Scale and shift of normalisations over the axis do not count: they can be folded into what reads them.

    Args:
        nodes: those that have the axis, see `touching`.
    """
    mixing = {item.node for item in axes.spans if axis in leaves(item.term)}
    summing = {item.node for item in axes.contractions if axis in leaves(item.term)}
    for node in nodes:
        if node.op == "get_attr":
            value = program.weights.get(str(node.target))
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return f"{node.target} is no floating weight"
        elif isinstance(node.meta.get("val"), Tensor | list | tuple) and node.op != "output":
            sources = [item for item in node.all_input_nodes if _has(axes.values.get(item.name), axis)]
            reason = _reason(node, axes, axis, sources, node.name in mixing, node.name in summing)
            if reason:
                return f"{node.name} {reason}"
    return ""


def _reason(node: fx.Node, axes: Axes, axis: Axis, sources: list[fx.Node], mixing: bool, summing: bool) -> str:
    name, given = key(node), arguments(node)
    if not sources:
        return f"({name}) makes it anew"
    if name in _NORMS:
        source = axes.values[given["input"].name]
        own = isinstance(source, tuple) and len(given["normalized_shape"]) == 1 and resolve(source[-1]) is axis
        return "" if own else "runs over more than this axis"
    if mixing:
        return f"({name}) runs over the whole axis"
    if name == "linear" or name in CONVOLUTIONS:
        return _layer(node, axes, axis)
    if name in ("matmul", "scaled_dot_product_attention"):
        return _product(name, given, axes, axis)
    if summing:
        return f"({name}) sums over it"
    tensors = [item for item in node.all_input_nodes if isinstance(item.meta.get("val"), Tensor)]
    if name in ("add", "sub"):
        return "" if len(tensors) == 2 == len(sources) else "adds the same to all of its indices"
    if name in ("mul", "div"):
        right = name == "mul" or sources == [node.args[0]]
        return "" if right and len(sources) == 1 else "multiplies each of its indices by another number"
    if name in ("cat", "stack"):
        return "" if len(sources) == len(tensors) else "joins it with something else"
    return "" if name in _MOVES or name in _SUMS else f"({name}) is not linear in it"


def _layer(node: fx.Node, axes: Axes, axis: Axis) -> str:
    given = arguments(node)
    source, weight = _dims(axes, given["input"]), _dims(axes, given["weight"])
    channel = -1 if key(node) == "linear" else -1 - int(key(node)[-2])
    if given["weight"].op != "get_attr" or (given["bias"] is not None and given["bias"].op != "get_attr"):
        return "has a weight or bias that is computed in the graph"
    if given.get("groups", 1) != 1:
        return "is a convolution with groups"
    elsewhere = [term for dim, term in enumerate(source) if dim != len(source) + channel]
    if any(axis in leaves(term) for term in (*elsewhere, *weight[2:])) and given["bias"] is not None:
        return "adds a bias to all of its indices"
    return ""


def _product(name: str, given: dict[str, Any], axes: Axes, axis: Axis) -> str:
    """Matrix products may have the axis along rows or columns, but not one product for each index of it."""
    operands = list(given.values())[:2] if name == "matmul" else [given[item] for item in ("query", "key", "value")]
    batch = 2 if name == "matmul" else 1
    for item in operands:
        if any(axis in leaves(term) for term in _dims(axes, item)[:-batch]):
            return f"({name}) has a product for each of its indices"
    mask = given.get("attn_mask")
    return f"({name}) has it in its mask" if isinstance(mask, fx.Node) and _has(axes.values[mask.name], axis) else ""


def _dims(axes: Axes, node: fx.Node) -> Dims:
    found = axes.values[node.name]
    assert isinstance(found, tuple)
    return found


def _has(value: Value, axis: Axis) -> bool:
    return axis in _leaves(value)


def _leaves(value: Value) -> Iterator[Axis]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        for term in value:
            yield from leaves(term)
