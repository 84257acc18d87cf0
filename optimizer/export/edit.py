"""Small edits of an onnx-ir graph that every clean-up step makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
import onnx_ir as ir

Dim = int | str | None
"""A known size, the expression of a dynamic one, or None where nothing is known."""


Rule = Callable[[ir.Graph, ir.Node], bool]
"""Tries to edit a graph at a node; True where it did."""


def apply_rules(graph: ir.Graph, rules: Mapping[str, Rule]) -> bool:
    """Run rules, by operator of the default domain, once over a graph; True where something changed."""
    changed = False
    for node in list(graph):
        rule = rules.get(node.op_type) if not node.domain and node.graph is not None else None
        if rule is not None and rule(graph, node):
            changed = True
    return changed


def dims_of(value: ir.Value | None) -> tuple[Dim, ...] | None:
    """Shape of a value; None where not even the rank is known."""
    if value is None or value.shape is None:
        return None
    return tuple(
        dim if isinstance(dim, int) else (None if dim.value is None else str(dim.value)) for dim in value.shape
    )


def same_dims(a: Sequence[Dim] | None, b: Sequence[Dim] | None) -> bool:
    """Whether two shapes are proved equal."""
    return a is not None and b is not None and None not in a and tuple(a) == tuple(b)


def constant_array(value: ir.Value | None, limit: int = 4096) -> numpy.ndarray | None:
    """The content of a constant of at most ``limit`` elements."""
    if value is None or value.const_value is None or value.is_graph_input() or value.const_value.size > limit:
        return None
    return value.const_value.numpy()


def constant_number(value: ir.Value | None) -> float | None:
    """The content of a constant of one element."""
    array = constant_array(value, 1)
    return None if array is None or array.size != 1 else float(array.reshape(-1)[0])


def constant_ints(value: ir.Value | None) -> list[int] | None:
    """The content of a small integer constant, flat."""
    array = constant_array(value, 64)
    if array is None or array.dtype.kind not in "iu":
        return None
    return [int(item) for item in array.reshape(-1)]


def add_constant(graph: ir.Graph, array: numpy.ndarray, hint: str) -> ir.Value:
    """A new initializer with a name made from ``hint``."""
    name, count = hint, 0
    while name in graph.initializers:
        count += 1
        name = f"{hint}_{count}"
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def insert_before(
    graph: ir.Graph, node: ir.Node, op_type: str, *inputs: ir.Value | None, **attributes: Any
) -> ir.Value:
    """The result of a new node in front of another, named after what that one makes."""
    made = ir.node(op_type, list(inputs), attributes, version=node.version)
    made.outputs[0].name = f"{node.outputs[0].name}_{op_type.lower()}_{len(graph)}"
    graph.insert_before(node, made)
    return made.outputs[0]


def replace(graph: ir.Graph, node: ir.Node, *values: ir.Value) -> None:
    """Put ``values`` in the place of the outputs of ``node`` and remove it."""
    for old, new in zip(node.outputs, values, strict=True):
        if new.shape is None:
            new.shape = old.shape
        if new.type is None:
            new.type = old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def set_input(graph: ir.Graph, node: ir.Node, index: int, ints: Sequence[int]) -> None:
    """Make one input of a node a constant vector of int64."""
    array = numpy.array(list(ints), dtype=numpy.int64)
    node.replace_input_with(index, add_constant(graph, array, f"{node.name or node.op_type}_{index}"))


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def ints_attribute(node: ir.Node, name: str) -> list[int] | None:
    """An attribute that is a list of integers."""
    attribute = node.attributes.get(name)
    return None if attribute is None else [int(item) for item in attribute.as_ints()]


def only_use(value: ir.Value | None) -> bool:
    """Whether exactly one node input reads a value, and the model does not return it."""
    return value is not None and not value.is_graph_output() and len(value.uses()) == 1


def made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes a value, where it is one of these operators of the default domain."""
    node = value.producer() if value is not None else None
    return node if is_op(node, *op_types) else None


def made_for_one(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node of this operator that makes a value which nothing else reads; None otherwise."""
    return made_by(value, op_type) if only_use(value) else None


def along_last(node: ir.Node, rank: int) -> bool:
    """Whether the axis of a node that works along one, of tensors of this rank, is the last."""
    return int_attribute(node, "axis", 0) % rank == rank - 1


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether a node is one of these operators of the default domain."""
    return node is not None and node.domain == "" and node.op_type in op_types
