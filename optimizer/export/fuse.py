"""Pairs of operators that ONNX has as one."""

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
    made_for_one,
    only_use,
    replace,
)


def fuse(graph: ir.Graph) -> bool:
    """Run the rules of this module once over a graph; True where something changed."""
    return apply_rules(graph, _RULES)


def _gemm(graph: ir.Graph, node: ir.Node) -> bool:
    """Add of a vector to a product of matrices is Gemm."""
    for product, bias in (node.inputs, reversed(node.inputs)):
        made_by = made_for_one(product, "MatMul")
        if made_by is None:
            continue
        left, right = (dims_of(value) for value in made_by.inputs)
        bias_dims = dims_of(bias)
        if left is None or right is None or bias_dims is None or len(left) != 2 or len(right) != 2:
            continue
        if bias_dims != (right[1],) or not isinstance(right[1], int):
            continue
        made = ir.node("Gemm", [*made_by.inputs, bias], version=node.version, name=node.name)
        made.outputs[0].name = node.outputs[0].name
        graph.insert_before(node, made)
        replace(graph, node, made.outputs[0])
        graph.remove(made_by, safe=True)
        return True
    return False


def _pad_into_window(graph: ir.Graph, node: ir.Node) -> bool:
    """Padding in front of a convolution or pooling is an attribute of it."""
    data = node.inputs[0]
    pad = data.producer() if data is not None else None
    if pad is None or not is_op(pad, "Pad") or not only_use(data) or not _pads_with(pad, node):
        return False
    amounts, rank = constant_ints(pad.inputs[1]), len(dims_of(pad.inputs[0]) or ())
    automatic = node.attributes.get("auto_pad")
    if amounts is None or len(pad.inputs) > 3 or rank < 3 or len(amounts) != 2 * rank:
        return False
    if automatic is not None and automatic.as_string() not in ("NOTSET", "VALID"):
        return False
    if any(amounts[:2]) or any(amounts[rank : rank + 2]) or min(amounts) < 0:
        return False
    own = ints_attribute(node, "pads") or [0] * (2 * (rank - 2))
    added = [*amounts[2:rank], *amounts[rank + 2 :]]
    node.attributes.pop("auto_pad", None)
    node.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, added, strict=True)])
    node.replace_input_with(0, pad.inputs[0])
    graph.remove(pad, safe=True)
    return True


def _pads_with(pad: ir.Node, window: ir.Node) -> bool:
    """Whether the padded value is what the window operator pads with itself."""
    mode = pad.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return False
    value = constant_array(pad.inputs[2]) if len(pad.inputs) > 2 and pad.inputs[2] is not None else None
    if value is None and len(pad.inputs) > 2 and pad.inputs[2] is not None:
        return False
    number = 0.0 if value is None else float(value.reshape(-1)[0])
    if window.op_type == "MaxPool":
        return number == float("-inf") and not int_attribute(window, "ceil_mode", 0)
    if window.op_type == "AveragePool":
        counted = int_attribute(window, "count_include_pad", 0) and not int_attribute(window, "ceil_mode", 0)
        return number == 0.0 and bool(counted)
    return number == 0.0


def _hard_sigmoid(graph: ir.Graph, node: ir.Node) -> bool:
    """A product and a sum with numbers, clipped to [0, 1], is HardSigmoid."""
    if [_number(value) for value in node.inputs[1:]] != [0.0, 1.0]:
        return False
    total, beta = _with_number(node.inputs[0], "Add")
    product, alpha = _with_number(None if total is None else total.inputs[_tensor_side(total)], "Mul")
    if total is None or product is None:
        return False
    data = product.inputs[_tensor_side(product)]
    if data is None or not _is_floating(data):
        return False
    return _become(graph, node, "HardSigmoid", [data], {"alpha": alpha, "beta": beta}, (total, product))


def _hard_swish(graph: ir.Graph, node: ir.Node) -> bool:
    """A value times its own HardSigmoid with slope 1/6 is HardSwish."""
    for gate, data in (node.inputs, reversed(node.inputs)):
        made_by = made_for_one(gate, "HardSigmoid")
        if made_by is None or made_by.inputs[0] is not data or data is None:
            continue
        slope, offset = (_float_attribute(made_by, name, default) for name, default in (("alpha", 0.2), ("beta", 0.5)))
        if abs(slope - 1 / 6) < 1e-7 and offset == 0.5:
            return _become(graph, node, "HardSwish", [data], {}, (made_by,))
    return False


def _global_average(graph: ir.Graph, node: ir.Node) -> bool:
    """The mean over all spatial axes is GlobalAveragePool, which runtimes keep in their blocked layouts."""
    data, axes = node.inputs[0], constant_ints(node.inputs[1]) if len(node.inputs) > 1 else None
    rank = len(dims_of(data) or ())
    if data is None or axes is None or rank < 4 or not int_attribute(node, "keepdims", 1) or not _is_floating(data):
        return False
    if sorted(axis % rank for axis in axes) != list(range(2, rank)):
        return False
    return _become(graph, node, "GlobalAveragePool", [data], {}, ())


def _become(
    graph: ir.Graph,
    node: ir.Node,
    op_type: str,
    inputs: list[ir.Value],
    attributes: dict[str, float],
    unused: tuple[ir.Node, ...],
) -> bool:
    made = ir.node(op_type, inputs, attributes, version=node.version, name=node.name)
    made.outputs[0].name = node.outputs[0].name
    graph.insert_before(node, made)
    replace(graph, node, made.outputs[0])
    for old in unused:
        graph.remove(old, safe=True)
    return True


def _with_number(value: ir.Value | None, op_type: str) -> tuple[ir.Node | None, float]:
    """The operator that makes a value, which nothing else reads, where its other operand is a number."""
    node = made_for_one(value, op_type)
    if node is None:
        return None, 0.0
    number = _number(node.inputs[1 - _tensor_side(node)])
    return (None, 0.0) if number is None else (node, number)


def _tensor_side(node: ir.Node) -> int:
    return 1 if _number(node.inputs[0]) is not None else 0


def _number(value: ir.Value | None) -> float | None:
    array = constant_array(value, 1)
    return None if array is None or array.dtype.kind != "f" or array.ndim > 1 else float(array.reshape(-1)[0])


def _float_attribute(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.as_float())


def _is_floating(value: ir.Value) -> bool:
    return value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


_RULES: dict[str, Rule] = {
    "Add": _gemm,
    "Clip": _hard_sigmoid,
    "Mul": _hard_swish,
    "ReduceMean": _global_average,
    "Conv": _pad_into_window,
    "MaxPool": _pad_into_window,
    "AveragePool": _pad_into_window,
}
