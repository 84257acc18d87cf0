"""Activations that are quantized while the model runs, as ONNX: DynamicQuantizeLinear, and products of integers.

ONNX Runtime fuses DynamicQuantizeLinear, MatMulInteger, Cast and Mul into one kernel, DynamicQuantizeMatMul or
MatMulIntegerToFloat (core/optimizer/matmul_integer_to_float.cc, dynamic_quantize_matmul_fusion.cc). The same product
behind DequantizeLinear nodes is computed in floating point there, so `integer_products` writes the former.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import onnx_ir as ir
import torch
import torch.ao.quantization.fx._decomposed  # declares torch.ops.quantized_decomposed

from tersor.export.edit import add_constant, int_attribute, ints_attribute, is_op, only_use, replace
from tersor.export.record import Value, ints, op, scalar

Q = torch.ops.quantized_decomposed


def _choose(data: Value, low: int, high: int, eps: float, dtype: int) -> Any:
    """Scale and zero point of a whole tensor, of the types that torch gives them."""
    if (low, high, dtype) != (0, 255, int(ir.DataType.UINT8)):
        raise NotImplementedError("dynamic quantization to other than 8 unsigned bits is not in ONNX")
    _, scale, zero = op.DynamicQuantizeLinear(data)
    return op.Cast(scale, to=ir.DataType.DOUBLE), op.Cast(zero, to=ir.DataType.INT64)


def _quantize(data: Value, scale: Value, zero: Value, low: int, high: int, dtype: int) -> Value:
    """What DynamicQuantizeLinear gives out already, where it chose the scale for this tensor."""
    made_by = _behind_cast(scale)
    if is_op(made_by, "DynamicQuantizeLinear") and made_by is not None and made_by.inputs[0] is data:
        return op.Identity(made_by.outputs[0])
    return op.QuantizeLinear(data, _number(scale, ir.DataType.FLOAT), _number(zero, dtype))


def _dequantize(
    level: Value, scale: Value, zero: Value, low: int, high: int, dtype: int, out_dtype: int | None = None
) -> Value:
    made = op.DequantizeLinear(level, _number(scale, ir.DataType.FLOAT), _number(zero, dtype))
    return made if out_dtype in (None, -1, int(ir.DataType.FLOAT)) else op.Cast(made, to=out_dtype)


def _number(value: Value, dtype: int) -> Value:
    """A scale or zero point as a scalar of an ONNX type; what DynamicQuantizeLinear gave is not cast there and back."""
    made_by = value.producer()
    if is_op(made_by, "Cast") and is_op(made_by.inputs[0].producer(), "DynamicQuantizeLinear"):
        return made_by.inputs[0]
    return op.Reshape(op.Cast(value, to=dtype), op.Constant(value_ints=[]))


def _behind_cast(value: Value) -> ir.Node | None:
    made_by: ir.Node | None = value.producer()
    source = made_by.inputs[0] if made_by is not None and is_op(made_by, "Cast") else None
    return source.producer() if source is not None else None


def _choose_rows(data: Value, dtype: int) -> Any:
    """Scale and zero point of each row: the zero is where the end of the range with less error puts it."""
    low = op.Min(op.ReduceMin(data, ints(-1), keepdims=1), scalar(0.0, data))
    high = op.Max(op.ReduceMax(data, ints(-1), keepdims=1), scalar(0.0, data))
    scale = op.Max(op.Div(op.Sub(high, low), scalar(255.0, data)), scalar(torch.finfo(torch.float32).eps, data))
    first, last = op.Div(low, scale), op.Div(high, scale)
    from_low = op.Sub(scalar(-128.0, data), first)
    from_high = op.Sub(scalar(127.0, data), last)
    sums = op.Add(op.Add(first, last), scalar(-1.0, data))
    zero = op.Where(op.Greater(sums, scalar(0.0, data)), from_low, from_high)
    zero = op.Round(op.Clip(zero, scalar(-128.0, data), scalar(127.0, data)))
    return op.Cast(scale, to=ir.DataType.DOUBLE), op.Cast(zero, to=ir.DataType.INT64)


def _quantize_rows(data: Value, scale: Value, zero: Value, low: int, high: int, dtype: int) -> Value:
    scaled = op.Div(data, op.Cast(scale, to=ir.DataType.FLOAT))
    level = op.Round(op.Add(scaled, op.Cast(zero, to=ir.DataType.FLOAT)))
    return op.Cast(op.Clip(level, scalar(float(low), data), scalar(float(high), data)), to=dtype)


def _dequantize_rows(level: Value, scale: Value, zero: Value, low: int, high: int, dtype: int, out_dtype: int) -> Value:
    real = op.Sub(op.Cast(level, to=ir.DataType.FLOAT), op.Cast(zero, to=ir.DataType.FLOAT))
    made = op.Mul(real, op.Cast(scale, to=ir.DataType.FLOAT))
    return made if out_dtype == int(ir.DataType.FLOAT) else op.Cast(made, to=out_dtype)


DYNAMIC: dict[Callable[..., Any], Callable[..., Any]] = {
    Q.choose_qparams.tensor: _choose,
    Q.quantize_per_tensor.tensor: _quantize,
    Q.dequantize_per_tensor.tensor: _dequantize,
    Q.choose_qparams_per_token_asymmetric.default: _choose_rows,
    Q.quantize_per_token.default: _quantize_rows,
    Q.dequantize_per_token.default: _dequantize_rows,
}
"""Translations of what chooses scales while the model runs, and of what uses them."""


def integer_products(graph: ir.Graph) -> bool:
    """Products of dynamically quantized data and an integer weight are computed on integers; True where one was."""
    changed = False
    for node in list(graph):
        if is_op(node, "MatMul", "Gemm") and node.graph is not None:
            changed |= _integer_product(graph, node)
    return changed


def _integer_product(graph: ir.Graph, node: ir.Node) -> bool:
    data, weight = _dynamic(node.inputs[0]), _constant_levels(node)
    if data is None or weight is None or int_attribute(node, "transA", 0):
        return False
    if any(node.attributes[name].as_float() != 1.0 for name in ("alpha", "beta") if name in node.attributes):
        return False
    levels, scale = weight
    name = str(node.inputs[1].name)  # type: ignore[union-attr]
    columns = add_constant(graph, numpy.ascontiguousarray(levels.T), f"{name}_levels")
    zeros = add_constant(graph, numpy.zeros(levels.shape[0], levels.dtype), f"{name}_zeros")
    scales = add_constant(graph, scale, f"{name}_scales")
    product = ir.node("MatMulInteger", [data.outputs[0], columns, data.outputs[2], zeros], version=node.version)
    real = ir.node("Cast", [product.outputs[0]], {"to": int(ir.DataType.FLOAT)}, version=node.version)
    steps = ir.node("Mul", [data.outputs[1], scales], version=node.version)
    made = [product, real, steps, ir.node("Mul", [real.outputs[0], steps.outputs[0]], version=node.version)]
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    if bias is not None:
        made.append(ir.node("Add", [made[-1].outputs[0], bias], version=node.version))
    for item in made:
        graph.insert_before(node, item)
    made[-1].outputs[0].name = node.outputs[0].name
    replace(graph, node, made[-1].outputs[0])
    return True


def _dynamic(value: ir.Value | None) -> ir.Node | None:
    """The DynamicQuantizeLinear whose result a value is, taken back."""
    back = value.producer() if value is not None else None
    if back is None or not is_op(back, "DequantizeLinear") or back.inputs[0] is None:
        return None
    made_by = back.inputs[0].producer()
    return made_by if is_op(made_by, "DynamicQuantizeLinear") else None


def _constant_levels(node: ir.Node) -> tuple[numpy.ndarray, numpy.ndarray] | None:
    """Levels [out, in] and scales [out] of a product's weight, where it is a constant without zero points."""
    value, turned = node.inputs[1], bool(int_attribute(node, "transB", 0))
    made_by = value.producer() if value is not None else None
    if made_by is not None and is_op(made_by, "Transpose") and ints_attribute(made_by, "perm") in (None, [1, 0]):
        turned, value = not turned, made_by.inputs[0]
        made_by = value.producer() if value is not None else None
    if made_by is None or not is_op(made_by, "DequantizeLinear") or not only_use(value):
        return None
    arrays = [item.const_value.numpy() for item in made_by.inputs if item is not None and item.const_value is not None]
    if len(arrays) != len(made_by.inputs) or arrays[0].ndim != 2 or arrays[1].ndim != 1:
        return None
    if int_attribute(made_by, "axis", 1) % 2 != (0 if turned else 1) or (len(arrays) == 3 and arrays[2].any()):
        return None
    return (arrays[0] if turned else arrays[0].T), arrays[1]
