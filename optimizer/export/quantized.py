"""Weights of few bits as ONNX: DequantizeLinear by blocks, in the layout that runtimes fuse with the product behind it.

ONNX Runtime makes MatMulNBits of a DequantizeLinear with ``axis`` 0 and a ``block_size`` in front of MatMul or Gemm
(core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc), OpenVINO a product with compressed weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy
import onnx_ir as ir
import torch
import torch.ao.quantization.fx._decomposed  # declares torch.ops.quantized_decomposed
from onnxscript import opset21

from tersor.convolution import EVERY
from tersor.export.edit import add_constant, int_attribute, ints_attribute, is_op, only_use, replace
from tersor.export.record import Value, ints, op
from tersor.program import Program
from tersor.rewrite_values import fake, is_floating, key

Q = torch.ops.quantized_decomposed
BLOCK_OPSET = 21
"""The first whose DequantizeLinear takes blocks and four bits."""
BFLOAT16_OPSET = 22
"""The first whose convolutions and poolings take bfloat16."""

WINDOWS = (*EVERY, "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d")

op21: Any = opset21


def least_opset(program: Program) -> int:
    """The opset that a program's stored weights, and its dtypes, want; 0 where any will do."""
    least = 0
    for node in program.nodes:
        if key(node) == "quantized_decomposed::dequantize_per_channel_group":
            least = max(least, BLOCK_OPSET)
        elif key(node) in WINDOWS and is_floating(node) and fake(node).dtype == torch.bfloat16:
            least = max(least, BFLOAT16_OPSET)
    return least


def quantized_table(opset: int) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Translations of what takes weights back; before opset 21 a weight of four bits is stored in eight."""
    return {
        Q.dequantize_per_channel_group.default: _blocks if opset >= BLOCK_OPSET else _rows,
        Q.convert_element_type.no_fuse: lambda data, dtype: op.Cast(data, to=dtype),
    }


def _blocks(
    level: Value, scale: Value, zero: Value | None, low: int, high: int, dtype: int, group: int, out: int
) -> Value:
    """One node; `store_weights` packs the levels."""
    zeros = () if zero is None else (op.Cast(zero, to=level.dtype),)
    return op21.DequantizeLinear(level, scale, *zeros, axis=1, block_size=group)


def _rows(
    level: Value, scale: Value, zero: Value | None, low: int, high: int, dtype: int, group: int, out: int
) -> Value:
    """Each group a row with a scale of its own."""
    flat = ints(-1)
    zeros = () if zero is None else (op.Reshape(op.Cast(zero, to=level.dtype), flat),)
    rows = op.DequantizeLinear(op.Reshape(level, ints(-1, group)), op.Reshape(scale, flat), *zeros, axis=0)
    return op.Reshape(rows, ints(*level.shape))


def store_weights(graph: ir.Graph, *, keep_eight_bits: bool = False) -> None:
    """Lay out stored weights as runtimes want them, and pack those of four bits; the last step of the clean-up.

    ``keep_eight_bits`` leaves DequantizeLinear in front of weights of eight bits, see `_plain`.
    """
    for node in list(graph):
        found = _weight_of(node) if is_op(node, "MatMul", "Gemm") and not _reads_quantized(node) else None
        if found is not None and "block_size" in found.attributes and _four_bits(found):
            _turn(graph, node, found)
        elif found is not None and not keep_eight_bits:
            _plain(graph, found)
    for node in list(graph):
        if is_op(node, "DequantizeLinear") and "block_size" in node.attributes:
            _pack(graph, node)


def _reads_quantized(node: ir.Node) -> bool:
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    return is_op(source, "DequantizeLinear")


def _weight_of(node: ir.Node) -> ir.Node | None:
    """The node that takes back a constant weight ``[out, in]``, which only this product reads."""
    value = node.inputs[1]
    made_by = value.producer() if value is not None and only_use(value) else None
    if is_op(node, "MatMul"):
        if made_by is None or not is_op(made_by, "Transpose") or ints_attribute(made_by, "perm") != [1, 0]:
            return None
        value = made_by.inputs[0]
        made_by = value.producer() if value is not None and only_use(value) else None
    elif not int_attribute(node, "transB", 0):
        return None
    constant = made_by is not None and all(item is None or item.const_value is not None for item in made_by.inputs)
    return made_by if constant and is_op(made_by, "DequantizeLinear") else None


def _turn(graph: ir.Graph, node: ir.Node, taken_back: ir.Node) -> None:
    """Store ``[in, out]`` instead, and drop the transposition."""
    turned = [numpy.ascontiguousarray(_array(value).T) for value in taken_back.inputs]
    attributes = {"axis": 0, "block_size": int_attribute(taken_back, "block_size", 0)}
    values = [_stored(graph, array, value) for array, value in zip(turned, taken_back.inputs, strict=True)]
    made = ir.node("DequantizeLinear", values, attributes, version=taken_back.version, name=taken_back.name)
    _place(graph, taken_back, made, f"{taken_back.outputs[0].name}_turned", turned[0].shape)
    node.replace_input_with(1, made.outputs[0])
    node.attributes.pop("transB", None)
    if is_op(node, "Gemm"):
        _without_fusion(graph, node)


def _without_fusion(graph: ir.Graph, node: ir.Node) -> None:
    """Keep ONNX Runtime from making one kernel of a Gemm and an activation, which takes no stored weights."""
    result = node.outputs[0]
    if not only_use(result) or next(iter(result.consumers())).op_type not in _ACTIVATIONS:
        return
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    op_type = "MatMul" if bias is None else "Gemm"
    product = ir.node(op_type, node.inputs[:2], version=node.version, name=f"{node.name}_product")
    last = product
    if bias is not None:
        last = ir.node("Add", [product.outputs[0], bias], version=node.version, name=node.name)
        _place(graph, node, product, f"{result.name}_product", None)
        product.outputs[0].shape, product.outputs[0].type = result.shape, result.type
    last.outputs[0].name = result.name
    graph.insert_before(node, last)
    replace(graph, node, last.outputs[0])


_ACTIVATIONS = (
    "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Elu", "HardSigmoid", "Selu", "ThresholdedRelu",
)  # fmt: skip


def _plain(graph: ir.Graph, taken_back: ir.Node) -> None:
    """A cast, a difference and a product, which runtimes compute once when they load the file.

    ONNX Runtime 1.31 makes MatMulNBits of DequantizeLinear with eight bits too, which then either rounds activations
    to eight bits, unasked, or takes thirty times as long as float32.
    """
    level, scale = taken_back.inputs[:2]
    zero = taken_back.inputs[2] if len(taken_back.inputs) > 2 else None
    shape, name = _array(level).shape, taken_back.outputs[0].name
    blocks = int_attribute(taken_back, "block_size", 0)
    if int_attribute(taken_back, "axis", 1) != int(bool(blocks)) or scale is None or scale.dtype != ir.DataType.FLOAT:
        return
    split = (*shape[:1], -1, blocks) if blocks else shape

    def add(op_type: str, *inputs: ir.Value | None, **attributes: int) -> ir.Value:
        made = ir.node(op_type, list(inputs), attributes, version=taken_back.version)
        _place(graph, taken_back, made, f"{name}_{op_type.lower()}", None)
        return made.outputs[0]

    value = add("Cast", level, to=int(ir.DataType.FLOAT))
    if blocks:
        value = add("Reshape", value, _stored(graph, numpy.array(split), level))
    if zero is not None and bool(_array(zero).any()):
        zeros = _array(zero).astype(numpy.float32)[..., None]
        value = add("Sub", value, _stored(graph, zeros, zero))
    value = add("Mul", value, _stored(graph, _array(scale)[..., None], scale))
    if blocks:
        value = add("Reshape", value, _stored(graph, numpy.array(shape), level))
    value.shape, value.type = taken_back.outputs[0].shape, taken_back.outputs[0].type
    replace(graph, taken_back, value)


def _place(graph: ir.Graph, before: ir.Node, made: ir.Node, name: str, shape: Sequence[int] | None) -> None:
    """Put a node in front of another, and say what it gives."""
    made.outputs[0].name = name
    made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    made.outputs[0].shape = None if shape is None else ir.Shape(shape)
    graph.insert_before(before, made)


def _four_bits(node: ir.Node) -> bool:
    """Whether four bits hold all levels and zero points."""
    level, _, *zero = node.inputs
    if level is None or level.dtype not in _LIMITS:
        return False
    low, high, _ = _LIMITS[level.dtype]
    arrays = [_array(value) for value in (level, *zero) if value is not None]
    return all(not array.size or (array.min() >= low and array.max() <= high) for array in arrays)


def _pack(graph: ir.Graph, node: ir.Node) -> None:
    """Levels that four bits hold take four."""
    values = [(place, node.inputs[place]) for place in (0, 2) if place < len(node.inputs)]
    if any(value is None or value.const_value is None for _, value in values) or not _four_bits(node):
        return
    for place, value in values:
        assert value is not None
        dtype = _LIMITS[value.dtype][2]
        node.replace_input_with(place, _stored(graph, _array(value).astype(dtype), value))


_LIMITS: dict[Any, tuple[int, int, Any]] = {
    ir.DataType.INT8: (-8, 7, ml_dtypes.int4),
    ir.DataType.UINT8: (0, 15, ml_dtypes.uint4),
}


def _array(value: ir.Value | None) -> numpy.ndarray:
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()


def _stored(graph: ir.Graph, array: numpy.ndarray, like: ir.Value | None) -> ir.Value:
    """A new initializer, named after the one it stands for."""
    return add_constant(graph, array, f"{like.name if like is not None else 'weight'}_stored")
