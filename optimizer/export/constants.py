"""Folding of what the translation computes from constants: small arithmetic, and layouts of weights."""

from __future__ import annotations

from typing import Any

import numpy
import onnx
import onnx_ir as ir
import torch
from onnx.reference import ReferenceEvaluator

from tersor.export.edit import (
    add_constant,
    constant_array,
    constant_ints,
    int_attribute,
    ints_attribute,
    is_op,
    replace,
)

_SMALL = 4096
_DUPLICATED = 2**20
"""Bytes up to which a weight may be stored in a second layout beside the first."""

_ARITHMETIC_NAMES = """
    Abs Add And Cast CastLike Ceil Clip Concat ConstantOfShape Cos Div Equal Exp Expand Floor Gather GatherND Greater
    GreaterOrEqual Identity Less LessOrEqual Log Max Min Mod Mul Neg Not Or Pow Range Reciprocal ReduceMax
    ReduceProd ReduceSum Reshape Shape Sin Size Slice Sqrt Squeeze Sub Tanh Tile Transpose Trilu Unsqueeze Where"""
_ARITHMETIC = frozenset(_ARITHMETIC_NAMES.split())
_LAYOUTS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast")


def lift_constants(graph: ir.Graph) -> None:
    """Turn Constant nodes into initializers."""
    for node in list(graph):
        if is_op(node, "Constant") and len(node.attributes) == 1:
            array = _attribute_array(next(iter(node.attributes.values())))
            if array is not None:
                replace(graph, node, add_constant(graph, array, node.outputs[0].name or "constant"))


def _attribute_array(attribute: ir.Attr) -> numpy.ndarray | None:
    if attribute.name == "value":
        tensor: Any = attribute.as_tensor()
        return None if tensor.dtype in (ir.DataType.STRING, ir.DataType.BFLOAT16) else tensor.numpy()
    if attribute.name in ("value_int", "value_ints"):
        return numpy.array(attribute.value, dtype=numpy.int64)
    if attribute.name in ("value_float", "value_floats"):
        return numpy.array(attribute.value, dtype=numpy.float32)
    return None


def fold_constants(graph: ir.Graph) -> bool:
    """Replace nodes whose inputs are constants; True where something changed."""
    changed = False
    for node in list(graph):
        if node.domain or len(node.outputs) != 1 or not all(_is_constant(value) for value in node.inputs):
            continue
        changed |= _fold_small(graph, node) or _fold_layout(graph, node)
    return changed


def _is_constant(value: ir.Value | None) -> bool:
    return value is None or (value.const_value is not None and not value.is_graph_input())


def _fold_small(graph: ir.Graph, node: ir.Node) -> bool:
    if node.op_type not in _ARITHMETIC or not any(node.inputs):
        return False
    arrays = [constant_array(value, _SMALL) for value in node.inputs]
    if any(array is None and value is not None for array, value in zip(arrays, node.inputs, strict=True)):
        return False
    if any(array is not None and array.dtype.kind not in "biuf" for array in arrays) or _grows(node, arrays):
        return False
    result = _evaluate(node, arrays)
    if result is None or result.size > _SMALL:
        return False
    replace(graph, node, add_constant(graph, result, node.outputs[0].name or "folded"))
    return True


def _grows(node: ir.Node, arrays: list[numpy.ndarray | None]) -> bool:
    """Whether the result may be large, before it is made."""
    if node.op_type == "ConstantOfShape" or node.op_type in ("Expand", "Tile"):
        sizes = arrays[0] if node.op_type == "ConstantOfShape" else arrays[1]
        return sizes is None or int(numpy.prod(numpy.abs(sizes.astype(numpy.float64)))) > _SMALL
    if node.op_type == "Range":
        start, limit, step = (float(array) if array is not None else 1.0 for array in arrays)
        return step == 0 or abs((limit - start) / step) > _SMALL
    return False


def _evaluate(node: ir.Node, arrays: list[numpy.ndarray | None]) -> numpy.ndarray | None:
    names = ["" if array is None else f"i{index}" for index, array in enumerate(arrays)]
    proto = onnx.helper.make_node(node.op_type, names, ["o"])
    proto.attribute.extend(ir.to_proto(attribute) for attribute in node.attributes.values())
    feeds = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    try:
        results: Any = ReferenceEvaluator(proto).run(None, feeds)
    except Exception:  # the node stays; the runtime decides what it means
        return None
    return numpy.asarray(results[0])


def _fold_layout(graph: ir.Graph, node: ir.Node) -> bool:
    """A weight in another layout takes the place of the weight: no second copy of a large one is stored."""
    weight = node.inputs[0] if node.inputs else None
    if weight is None or not is_op(node, *_LAYOUTS) or weight.const_value is None:
        return False
    if weight.const_value.nbytes > _DUPLICATED and (len(weight.uses()) > 1 or weight.is_graph_output()):
        return False
    made = _laid_out(node, _torch(weight))
    if made is None or made.numel() * made.element_size() > weight.const_value.nbytes:
        return False
    name, count = weight.name or "weight", 0
    while name in graph.initializers:
        count += 1
        name = f"{weight.name}_{count}"
    tensor = ir.tensor_adapters.TorchTensor(made, name=name)
    value = ir.Value(name=name, shape=ir.Shape(list(made.shape)), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    replace(graph, node, value)
    return True


def _torch(value: ir.Value) -> torch.Tensor:
    tensor = value.const_value
    raw = getattr(tensor, "raw", None)
    return raw.detach() if isinstance(raw, torch.Tensor) else torch.from_numpy(numpy.array(tensor.numpy()))  # type: ignore[union-attr]


def _laid_out(node: ir.Node, weight: torch.Tensor) -> torch.Tensor | None:
    if node.op_type == "Identity":
        return weight
    if node.op_type == "Transpose":
        return weight.permute(ints_attribute(node, "perm") or list(reversed(range(weight.dim()))))
    if node.op_type == "Cast":
        return weight.to(ir.tensor_adapters.to_torch_dtype(ir.DataType(int_attribute(node, "to", 1))))
    numbers = constant_ints(node.inputs[1]) if len(node.inputs) > 1 else None
    if node.op_type == "Reshape" and numbers is not None and 0 not in numbers:
        return weight.reshape(numbers)
    if node.op_type == "Unsqueeze" and numbers is not None:
        rank = weight.dim() + len(numbers)
        for axis in sorted(number % rank for number in numbers):
            weight = weight.unsqueeze(axis)
        return weight
    if node.op_type == "Squeeze" and numbers is not None:
        return weight.squeeze(tuple(numbers))
    return None


def merge_duplicates(graph: ir.Graph, limit: int = 2**20) -> None:
    """Let equal initializers be one; those over ``limit`` bytes only where they share their memory."""
    seen: dict[Any, ir.Value] = {}
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or value.is_graph_output() or value.is_graph_input():
            continue
        key = _identity(tensor, limit)
        kept = seen.setdefault(key, value)
        if kept is not value:
            value.replace_all_uses_with(kept)
            graph.initializers.pop(str(value.name))


def _identity(tensor: ir.TensorProtocol, limit: int) -> Any:
    head = (tensor.dtype, tuple(tensor.shape))
    raw = getattr(tensor, "raw", None)
    if isinstance(raw, torch.Tensor) and raw.numel():
        address = (raw.data_ptr(), raw.stride())
        return (*head, address) if tensor.nbytes > limit else (*head, tensor.tobytes())
    if tensor.dtype == ir.DataType.STRING or tensor.nbytes > limit:
        return id(tensor)
    return (*head, tensor.tobytes())
