"""Reads: where a program sums over the indices of a group, which is where a removed index is missed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tersor.axes.analysis import Axes
from tersor.axes.flow import Contraction
from tersor.axes.select import owners
from tersor.axes.terms import Axis, Term, leaves, resolve, size
from tersor.calibrate import Tap
from tersor.importance.layers import Layer, layers
from tersor.program import Program
from tersor.rewrite_values import arguments, key


@dataclass(frozen=True, eq=False)
class Read:
    """One sum over a dimension of an activation.

    Attributes:
        node: the node that sums.
        operand: the node whose result it sums over.
        dim: the dimension of that result, from the front.
        term: what the dimension is made of.
        layer: the weight it is multiplied with; None for a plain sum or a product of two activations.
        other: for a product of two activations the other one and its dimension.
    """

    node: str
    operand: str
    dim: int
    term: Term
    layer: Layer | None = None
    other: tuple[str, int] | None = None

    @property
    def tap(self) -> Tap:
        """Where to measure what is read."""
        return Tap(self.node, self.operand, self.dim)

    def owners(self, axis: Axis) -> Tensor:
        """For each position of the dimension the index of ``axis`` that it belongs to, -1 where none."""
        return owners(self.term, axis)


def reads(program: Program, axes: Axes) -> dict[Axis, list[Read]]:
    """All reads of each axis, in order.

    Left out is where the result loses the index as well, as in a depthwise convolution: nothing there misses it.
    """
    nodes = {node.name: node for node in program.nodes}
    known = layers(program)
    found: dict[Axis, list[Read]] = defaultdict(list)
    seen: set[tuple[str, Term]] = set()
    for item in axes.contractions:
        node, term = nodes.get(item.node), resolve(item.term)
        # An index inside a dimension whose size differs from call to call cannot be followed.
        if node is None or (item.node, term) in seen or not isinstance(size(term), int):
            continue
        read = _read(nodes, node, item, known.get(item.node))
        if read is None:
            continue
        seen.add((item.node, term))
        for axis in dict.fromkeys(leaves(term)):
            if isinstance(axis.size, int) and not _passes(axes, read, axis):
                found[axis].append(read)
    return found


def _read(nodes: dict[str, fx.Node], node: fx.Node, item: Contraction, layer: Layer | None) -> Read | None:
    if layer is not None:
        # A layer's own sum may be recorded on its weight; an einsum may sum over further dimensions beside it.
        rank = nodes[item.operand].meta["val"].dim()
        if item.operand == layer.source and item.dim % rank != layer.dim:
            return Read(node.name, item.operand, item.dim % rank, item.term)
        return Read(node.name, layer.source, layer.dim, item.term, layer)
    source = nodes[item.operand]
    if source.op == "get_attr":
        return None
    dim = item.dim % source.meta["val"].dim()
    return Read(node.name, item.operand, dim, item.term, other=_other(node, source, dim))


def _other(node: fx.Node, source: fx.Node, dim: int) -> tuple[str, int] | None:
    """What a product of two activations multiplies the operand with."""
    name = key(node)
    if name == "scaled_dot_product_attention":
        found = arguments(node)["key"]
        return found.name, found.meta["val"].dim() - 1
    if name in ("matmul", "bmm", "mm", "mv", "dot") and isinstance(node.args[1], fx.Node):
        right = node.args[1]
        return right.name, max(right.meta["val"].dim() - 2, 0)
    if name == "einsum" and isinstance(node.args[1], list | tuple) and len(node.args[1]) == 2:
        return _other_of_einsum(node, source, dim)
    return None


def _other_of_einsum(node: fx.Node, source: fx.Node, dim: int) -> tuple[str, int] | None:
    left = str(node.args[0]).replace(" ", "").split("->")[0].split(",")
    operands: Any = node.args[1]
    place = 0 if source is operands[0] else 1
    letter, others, found = left[place][dim], left[1 - place], operands[1 - place]
    return (found.name, others.index(letter)) if isinstance(found, fx.Node) and letter in others else None


def _passes(axes: Axes, read: Read, axis: Axis) -> bool:
    """Whether every result of what belongs to an index of the axis belongs to that index too."""
    layer = read.layer
    made = axes.values.get(read.node)
    if layer is None or layer.groups == 1 or layer.channel is None or not isinstance(made, tuple):
        return False
    into = read.owners(axis).reshape(layer.groups, 1, -1)
    out = owners(made[layer.channel], axis).reshape(layer.groups, -1, 1)
    return bool(((into == out) | (into < 0)).all())


def missed(axes: Axes, read: Read, axis: Axis) -> Tensor:
    """Which products are missed: ``[groups, outputs, inputs]`` of the layer's matrix form, False where the output goes
    with the input.
    """
    layer = read.layer
    assert layer is not None
    into = read.owners(axis).reshape(layer.groups, 1, -1)
    out = out_owners(axes, read, axis).reshape(layer.groups, -1, 1)
    return (into >= 0) & (into != out)


def out_owners(axes: Axes, read: Read, axis: Axis) -> Tensor:
    """Whose each output of the matrix form is, in its order."""
    layer = read.layer
    assert layer is not None
    made = axes.values.get(read.node)
    if layer.channel is not None and isinstance(made, tuple):
        return owners(made[layer.channel], axis)
    dims = axes.weights[layer.weight]
    found = torch.full((1,), -1, dtype=torch.int64)
    for dim in layer.out:
        found = torch.maximum(found[:, None], owners(dims[dim], axis)[None, :]).flatten()
    return found
