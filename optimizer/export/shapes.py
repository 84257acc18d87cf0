"""Reshape, Expand and size arithmetic: constants where the symbolic shapes prove them, one node otherwise."""

from __future__ import annotations

import numpy
import onnx_ir as ir

from tersor.export.edit import (
    Dim,
    add_constant,
    constant_ints,
    dims_of,
    is_op,
    only_use,
    replace,
    same_dims,
    set_input,
)
from tersor.export.sizes import Sizes, SizeTable

_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


def simplify_shapes(graph: ir.Graph) -> bool:
    """Run the rules of this module once over a graph; True where something changed."""
    table, changed = SizeTable(), False
    first: dict[Sizes, ir.Value] = {}
    source = _input_sizes(graph)
    for node in list(graph):
        if node.domain or node.graph is None:
            continue
        if node.op_type in _RESHAPES:
            changed |= _reshape(graph, node, table)
        elif node.op_type == "Expand":
            changed |= _expand(graph, node, table)
        if node.graph is not None and len(node.outputs) == 1:
            changed |= _size_value(graph, node, table, first, source)
    return changed


def _size_value(
    graph: ir.Graph,
    node: ir.Node,
    table: SizeTable,
    first: dict[Sizes, ir.Value],
    source: dict[str, list[tuple[ir.Value, int]]],
) -> bool:
    """Numbers become a constant; sizes computed before are used again; others become one Shape of an input."""
    value = node.outputs[0]
    sizes = table.of(value)
    if sizes is None or not sizes.items:
        return False
    if sizes.numbers is not None:
        array = numpy.array(sizes.numbers[0] if sizes.scalar else sizes.numbers, dtype=numpy.int64)
        replace(graph, node, add_constant(graph, array, value.name or "size"))
        return True
    if sizes in first:
        replace(graph, node, first[sizes])
        return True
    first[sizes] = value
    found = _in_inputs(sizes, source) if not is_op(node, "Shape") else None
    if found is None:
        return False
    tensor, start = found
    ends = {"start": start, "end": start + len(sizes.items)}
    made = ir.node("Shape", [tensor], ends, version=node.version, name=node.name)
    graph.insert_before(node, made)
    replace(graph, node, made.outputs[0])
    first[sizes] = made.outputs[0]
    return True


def _input_sizes(graph: ir.Graph) -> dict[str, list[tuple[ir.Value, int]]]:
    """Where each dynamic size stands among the shapes of the model's inputs."""
    places: dict[str, list[tuple[ir.Value, int]]] = {}
    for value in graph.inputs:
        for axis, dim in enumerate(dims_of(value) or ()):
            if isinstance(dim, str):
                places.setdefault(dim, []).append((value, axis))
    return places


def _in_inputs(sizes: Sizes, source: dict[str, list[tuple[ir.Value, int]]]) -> tuple[ir.Value, int] | None:
    if sizes.scalar or not isinstance(sizes.items[0], str):
        return None
    for value, axis in source.get(sizes.items[0], ()):
        dims = dims_of(value) or ()
        if dims[axis : axis + len(sizes.items)] == sizes.items:
            return value, axis
    return None


def _wanted(node: ir.Node, table: SizeTable) -> tuple[Dim, ...] | None:
    """The shape that a reshape or expand produces."""
    dims = dims_of(node.outputs[0])
    if dims is not None and None not in dims:
        return dims
    sizes = table.of(node.inputs[1]) if len(node.inputs) > 1 and is_op(node, "Reshape", "Expand") else None
    if sizes is None or sizes.scalar or any(item in (0, -1) for item in sizes.items):
        return None
    return sizes.items


def _reshape(graph: ir.Graph, node: ir.Node, table: SizeTable) -> bool:
    data, wanted = node.inputs[0], _wanted(node, table)
    if data is None or wanted is None:
        return False
    if node.outputs[0].shape is None and is_op(node, "Reshape"):
        node.outputs[0].shape = ir.Shape(list(wanted))
        node.outputs[0].type = data.type
    if same_dims(dims_of(data), wanted):
        replace(graph, node, data)
        return True
    before = data.producer()
    merged = is_op(before, *_RESHAPES) and only_use(data) and before is not None
    origin = before.inputs[0] if merged and before is not None else data
    target = reshape_target(dims_of(origin), wanted)
    if target is None and merged:
        merged, origin, target = False, data, reshape_target(dims_of(data), wanted)
    if target is None or (not merged and (is_op(node, "Squeeze", "Unsqueeze") or _is_constant(node, target))):
        return False
    made = ir.node("Reshape", [origin, None], version=node.version, name=node.name)
    graph.insert_before(node, made)
    set_input(graph, made, 1, target)
    made.outputs[0].name = node.outputs[0].name
    replace(graph, node, made.outputs[0])
    return True


def _is_constant(node: ir.Node, target: list[int]) -> bool:
    return is_op(node, "Reshape") and constant_ints(node.inputs[1]) is not None


def reshape_target(before: tuple[Dim, ...] | None, wanted: tuple[Dim, ...]) -> list[int] | None:
    """A constant second input for Reshape, or None where more than one size would have to be inferred.

    A size that stands at the same place before is copied (0), one other may be inferred (-1).

    >>> reshape_target(("batch", 4, 8), ("batch", 32))
    [0, 32]
    >>> reshape_target(("batch", "length", 8), ("batch*length", 8))
    [-1, 8]
    >>> reshape_target(None, ("batch", "length")) is None
    True
    """
    target: list[int] = []
    for axis, dim in enumerate(wanted):
        if isinstance(dim, int):
            target.append(dim)
        else:
            copied = before is not None and axis < len(before) and dim is not None and before[axis] == dim
            target.append(0 if copied else -1)
    empty = any(isinstance(dim, int) and dim == 0 for dim in wanted)
    return None if target.count(-1) > 1 or empty else target


def _expand(graph: ir.Graph, node: ir.Node, table: SizeTable) -> bool:
    data, before = node.inputs[0], dims_of(node.inputs[0])
    wanted = dims_of(node.outputs[0]) or _wanted(node, table)
    if data is None or before is None or wanted is None:
        return False
    if same_dims(before, wanted):
        replace(graph, node, data)
        return True
    if constant_ints(node.inputs[1]) is not None:
        return False
    aligned = (1,) * (len(wanted) - len(before)) + before
    target = [_expanded(old, new) for old, new in zip(aligned, wanted, strict=True)]
    numbers = [size for size in target if size is not None]
    if len(numbers) < len(target):
        return False
    set_input(graph, node, 1, numbers)
    return True


def _expanded(old: Dim, new: Dim) -> int | None:
    if isinstance(new, int):
        return new
    return 1 if new is not None and old == new else None
