"""Constant nodes: every form of attribute that holds their value, as one tensor."""

from __future__ import annotations

import onnx
from onnx import NodeProto, TensorProto, helper

from tersor.capture.onnx.tensors import dense
from tersor.errors import ModelFileError

_LISTS = {
    "value_float": (TensorProto.FLOAT, False),
    "value_floats": (TensorProto.FLOAT, True),
    "value_int": (TensorProto.INT64, False),
    "value_ints": (TensorProto.INT64, True),
    "value_string": (TensorProto.STRING, False),
    "value_strings": (TensorProto.STRING, True),
}


def constant_tensor(node: NodeProto) -> TensorProto | None:
    """The value of a `Constant` node; None for any other node.

    Raises:
        ModelFileError: the node has no value, or no output.
    """
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    if len(node.output) != 1 or len(node.attribute) != 1:
        raise ModelFileError(f"Constant node '{node.name}' has no single value", "export the model again")
    attribute = node.attribute[0]
    if attribute.ref_attr_name:
        return None
    if attribute.name == "value":
        return attribute.t
    if attribute.name == "sparse_value":
        return dense(attribute.sparse_tensor)
    if attribute.name not in _LISTS:
        raise ModelFileError(f"Constant node '{node.name}' has the unknown attribute '{attribute.name}'")
    element, many = _LISTS[attribute.name]
    value = onnx.helper.get_attribute_value(attribute)
    items = list(value) if many else [value]
    return helper.make_tensor(node.output[0], element, [len(items)] if many else [], items)
