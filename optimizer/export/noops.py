"""Nodes that change nothing, alone or in pairs."""

from __future__ import annotations

import onnx_ir as ir

from tersor.export.edit import (
    Rule,
    apply_rules,
    constant_array,
    constant_ints,
    dims_of,
    int_attribute,
    ints_attribute,
    is_op,
    only_use,
    replace,
    same_dims,
    set_input,
)

_NO_END = 2**31 - 1


def remove_noops(graph: ir.Graph) -> bool:
    """Run the rules of this module once over a graph; True where something changed."""
    return apply_rules(graph, _RULES)


def _identity(graph: ir.Graph, node: ir.Node) -> bool:
    return _skip(graph, node)


def _skip(graph: ir.Graph, node: ir.Node) -> bool:
    """Remove a node that returns its first input, unless the model's interface needs it."""
    data = node.inputs[0]
    if data is None:
        return False
    replace(graph, node, data)
    return True


def _cast(graph: ir.Graph, node: ir.Node) -> bool:
    data = node.inputs[0]
    same = data is not None and data.dtype is not None and int(data.dtype) == int_attribute(node, "to", 0)
    return same and _skip(graph, node)


def _cast_like(graph: ir.Graph, node: ir.Node) -> bool:
    """CastLike is a Cast once the other's type is known, and nothing where it is the same."""
    data, other = node.inputs
    if data is None or other is None or other.dtype is None:
        return False
    if data.dtype == other.dtype:
        return _skip(graph, node)
    made = ir.node("Cast", [data], {"to": int(other.dtype)}, version=node.version, name=node.name)
    made.outputs[0].name = node.outputs[0].name
    graph.insert_before(node, made)
    made.outputs[0].dtype = other.dtype
    replace(graph, node, made.outputs[0])
    return True


def _transpose(graph: ir.Graph, node: ir.Node) -> bool:
    data, perm = node.inputs[0], ints_attribute(node, "perm")
    if data is None or perm is None:
        return False
    if perm == list(range(len(perm))):
        return _skip(graph, node)
    before = data.producer()
    inner = ints_attribute(before, "perm") if before is not None and is_op(before, "Transpose") else None
    if before is None or inner is None or not only_use(data):
        return False
    node.attributes["perm"] = ir.AttrInt64s("perm", [inner[axis] for axis in perm])
    node.replace_input_with(0, before.inputs[0])
    graph.remove(before, safe=True)
    _transpose(graph, node)
    return True


def _concat(graph: ir.Graph, node: ir.Node) -> bool:
    return len(node.inputs) == 1 and _skip(graph, node)


def _slice(graph: ir.Graph, node: ir.Node) -> bool:
    """A slice of everything is nothing; a slice of a slice on another axis is one slice."""
    bounds = [constant_ints(value) for value in node.inputs[1:]]
    if len(bounds) < 3 or any(bound is None for bound in bounds):
        return False
    starts, ends, axes, steps = [bound or [] for bound in bounds] + (
        [[1] * len(bounds[0] or [])] if len(bounds) == 3 else []
    )
    if all(s == 0 and e >= _NO_END and t == 1 for s, e, t in zip(starts, ends, steps, strict=True)):
        return _skip(graph, node)
    if same_dims(dims_of(node.inputs[0]), dims_of(node.outputs[0])) and all(step == 1 for step in steps):
        return _skip(graph, node)
    return _merge_slices(graph, node, starts, ends, axes, steps)


def _merge_slices(
    graph: ir.Graph, node: ir.Node, starts: list[int], ends: list[int], axes: list[int], steps: list[int]
) -> bool:
    data = node.inputs[0]
    before = data.producer() if data is not None and only_use(data) else None
    if before is None or not is_op(before, "Slice") or len(before.inputs) < 4:
        return False
    inner = [constant_ints(value) for value in before.inputs[1:]]
    inner_axes = inner[2]
    if (
        any(bound is None for bound in inner)
        or inner_axes is None
        or min(*axes, *inner_axes) < 0
        or set(axes) & set(inner_axes)
    ):
        return False
    inner_steps = inner[3] if len(inner) > 3 else [1] * len(inner_axes)
    for index, (old, new) in enumerate(zip([*inner[:3], inner_steps], (starts, ends, axes, steps), strict=True)):
        if index + 1 < len(node.inputs):
            set_input(graph, node, index + 1, [*(old or []), *new])
    node.replace_input_with(0, before.inputs[0])
    graph.remove(before, safe=True)
    return True


def _where(graph: ir.Graph, node: ir.Node) -> bool:
    """A condition that is always true, or always false, chooses one side where that has the result's shape."""
    condition = constant_array(node.inputs[0])
    if condition is None or not condition.size or condition.all() != condition.any():
        return False
    kept = node.inputs[1] if condition.all() else node.inputs[2]
    if kept is None or not same_dims(dims_of(kept), dims_of(node.outputs[0])):
        return False
    replace(graph, node, kept)
    return True


def _clip(graph: ir.Graph, node: ir.Node) -> bool:
    return not any(node.inputs[1:]) and _skip(graph, node)


def _pad(graph: ir.Graph, node: ir.Node) -> bool:
    pads = constant_ints(node.inputs[1])
    return pads is not None and not any(pads) and _skip(graph, node)


def _scatter(graph: ir.Graph, node: ir.Node) -> bool:
    """ScatterND over every index in order is its updates."""
    indices = constant_array(node.inputs[1])
    same = same_dims(dims_of(node.inputs[0]), dims_of(node.inputs[2])) and not node.attributes.get("reduction")
    ordered = indices is not None and indices.ndim == 2 and indices.shape[1] == 1
    if not same or not ordered or indices is None or indices.reshape(-1).tolist() != list(range(len(indices))):
        return False
    dims = dims_of(node.inputs[2])
    if dims is None or dims[0] != len(indices) or node.inputs[2] is None:
        return False
    replace(graph, node, node.inputs[2])
    return True


def _dropout(graph: ir.Graph, node: ir.Node) -> bool:
    training = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
    inference = len(node.inputs) < 3 or (training is not None and not training.any())
    return inference and len(node.outputs) == 1 and _skip(graph, node)


def _neutral(graph: ir.Graph, node: ir.Node) -> bool:
    """Whole numbers plus zero, anything times or divided by one, a condition and True."""
    number = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "And": 1, "Or": 0}[node.op_type]
    for index in (1, 0) if node.op_type in ("Add", "Mul", "And", "Or") else (1,):
        array, kept = constant_array(node.inputs[index]), node.inputs[1 - index]
        if array is None or kept is None or array.dtype.kind not in "biuf" or not (array == number).all():
            continue
        # Negative zero plus zero is zero, so floating-point sums stay.
        if array.dtype.kind == "f" and number == 0:
            continue
        if same_dims(dims_of(kept), dims_of(node.outputs[0])):
            replace(graph, node, kept)
            return True
    return False


_RULES: dict[str, Rule] = {
    "Identity": _identity,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Transpose": _transpose,
    "Concat": _concat,
    "Slice": _slice,
    "Where": _where,
    "Clip": _clip,
    "Pad": _pad,
    "ScatterND": _scatter,
    "Dropout": _dropout,
    "Add": _neutral,
    "Sub": _neutral,
    "Mul": _neutral,
    "Div": _neutral,
    "And": _neutral,
    "Or": _neutral,
}
