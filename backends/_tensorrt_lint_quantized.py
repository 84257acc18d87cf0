"""Quantization that TensorRT refuses, and quantization from which it gains nothing.

Sources: NVIDIA TensorRT documentation, "Explicit Quantization" (symmetric levels; int8 and float8 per tensor or per
channel, int4 in blocks and for weights only; placement of Q/DQ), and QuantDequantLinearHelper of onnx-tensorrt.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from tersor.backends._tensorrt_findings import Noted
from tersor.backends._tensorrt_layers import WEIGHTED, layers
from tersor.export.edit import constant_array, int_attribute, is_op

_PLACED = "quantize{backend=tensorrt}"
_FOUR_BITS = "quantize-weights{format=int4;backend=tensorrt}"
_HELD = (ir.DataType.INT8, ir.DataType.INT4, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT4E2M1)
_EIGHT = (ir.DataType.INT8, ir.DataType.FLOAT8E4M3FN)
_FOUR = (ir.DataType.INT4, ir.DataType.FLOAT4E2M1)

_MOVES = (
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "Split", "Expand", "Identity", "Cast",
    "MaxPool", "Relu", "Clip", "Concat", "Resize",
)  # fmt: skip
_FUSED = (*WEIGHTED, *_MOVES, "Add", "Mul", "AveragePool", "GlobalAveragePool", "ReduceMean", "QuantizeLinear",
          "Sigmoid", "HardSwish", "HardSigmoid", "LeakyRelu", "Gelu", "Elu", "Attention")  # fmt: skip
"""What quantized values are of use for: computed on them, moved, or fused with what is."""


def quantized(graph: ir.Graph) -> Iterator[Noted]:
    """Levels, scales and zero points first, then where they stand."""
    for node in graph:
        if is_op(node, "QuantizeLinear", "DequantizeLinear"):
            yield from _levels(node)
            yield from _scales(node)
    yield from _placement(graph)


def level_dtype(node: ir.Node) -> ir.DataType | None:
    """The type of the levels that a node makes or takes."""
    if is_op(node, "DequantizeLinear"):
        return node.inputs[0].dtype if node.inputs[0] is not None else None
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None:
        return zero.dtype
    asked = int_attribute(node, "output_dtype", 0)
    return ir.DataType(asked) if asked else ir.DataType.UINT8


def _is_weight(node: ir.Node) -> bool:
    value = node.inputs[0]
    return value is not None and value.const_value is not None


def _levels(node: ir.Node) -> Iterator[Noted]:
    dtype, name = level_dtype(node), str(node.name)
    if dtype == ir.DataType.INT32:
        yield name, "a bias is stored in 32-bit integers", f"{_PLACED} keeps biases in floating point", True
    elif dtype == ir.DataType.FLOAT8E5M2:
        yield name, "levels are float8 with 5 bits of exponent", "quantize-weights{format=e4m3;backend=tensorrt}", True
    elif dtype is not None and dtype not in _HELD:
        yield name, f"levels are {dtype.name.lower()}; TensorRT's are signed", f"{_PLACED}, or {_FOUR_BITS}", True
    elif dtype in _FOUR and not _is_weight(node):
        yield name, "activations have four bits, which TensorRT stores weights in only", _PLACED, True
    zero = constant_array(node.inputs[2], 2**24) if len(node.inputs) > 2 else None
    if zero is not None and bool(zero.astype("float32").any()):
        yield name, "levels have a zero point; TensorRT's are symmetric", f"{_PLACED}, or {_FOUR_BITS}", True


def _scales(node: ir.Node) -> Iterator[Noted]:
    name, scale = str(node.name), node.inputs[1]
    array = constant_array(scale, 2**24)
    if array is not None and bool((array.astype("float32") <= 0).any()):
        yield name, "a scale is not positive", "calibrate again: the tensor may be all zero", True
    if array is not None and array.size > 1 and not _is_weight(node):
        yield name, "activations have a scale per channel", f"{_PLACED} gives one for the tensor", True
    if int_attribute(node, "block_size", 0) and level_dtype(node) in _EIGHT:
        yield name, "levels of eight bits have scales in blocks", "one scale per output, or int4 in blocks", True
    data = node.inputs[0]
    if is_op(node, "QuantizeLinear") and data is not None and scale is not None:
        known = data.dtype is not None and scale.dtype is not None
        if known and data.dtype != scale.dtype:
            types = f"{data.dtype.name.lower()} is quantized with a scale in {scale.dtype.name.lower()}"  # type: ignore[union-attr]
            yield name, types, "give both the same type", True


def _placement(graph: ir.Graph) -> Iterator[Noted]:
    for layer in layers(graph):
        name = str(layer.node.name)
        stored = level_dtype(layer.taken_back) if layer.taken_back is not None else None
        if stored in _EIGHT and layer.reads is None:
            yield (
                name,
                "weights have eight bits and activations none, so floating point is multiplied",
                (f"{_PLACED} quantizes both; {_FOUR_BITS} where memory is what counts"),
                False,
            )
        elif stored is None and layer.reads is not None and layer.reads.inputs[0] is not None:
            yield name, "activations are quantized and weights are not", f"{_PLACED} quantizes both", False
        elif stored in _EIGHT and (other := _open_residual(layer.node)) is not None:
            yield (
                str(other.name),
                "adds to a quantized layer what is not quantized",
                (f"{_PLACED} quantizes the other branch too, and one kernel does both"),
                False,
            )
    for node in graph:
        if is_op(node, "DequantizeLinear") and not _is_weight(node):
            readers = [reader for reader in node.outputs[0].consumers() if not is_op(reader, *_FUSED)]
            if readers and len(readers) == len(list(node.outputs[0].consumers())):
                problem = f"is quantized and taken back for {readers[0].op_type}, which is computed in floating point"
                yield str(node.name), problem, f"leave it out: {_PLACED} quantizes what is fused only", False


def _open_residual(node: ir.Node) -> ir.Node | None:
    """The addition behind a quantized layer whose other operand is in floating point."""
    result = node.outputs[0]
    uses = list(result.consumers())
    if len(uses) != 1 or not is_op(uses[0], "Add") or result.is_graph_output():
        return None
    for value in uses[0].inputs:
        made_by = value.producer() if value is not None else None
        if value is None or value is result or value.const_value is not None:
            continue
        return None if is_op(made_by, "DequantizeLinear", *WEIGHTED) else uses[0]
    return None
