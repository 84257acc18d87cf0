"""Linear quantization and dequantization: per tensor, per axis and in blocks.

What computes with quantized integers (DynamicQuantizeLinear, MatMulInteger, QLinearConv, ...) has no function here: a
node of it is one kernel in every runtime and a dozen operators of floats in torch, so it stays opaque.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor

from tersor.capture.onnx.dtypes import torch_dtype
from tersor.capture.onnx.operators.precision import as_type
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Host, Opaque, Value, tensor

INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.uint16)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_OPS = torch.ops.quantized_decomposed


def _number(value: Value | None, default: float) -> Any:
    """The only item of a constant, the default for an absent value, or None where it is neither."""
    if value is None:
        return default
    return value.array.item() if isinstance(value, Host) and value.array.size == 1 else None


def _spread(parameter: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point, shaped to broadcast over ``x``."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    shape = [1] * x.dim()
    shape[axis] = -1
    return parameter.reshape(shape)


def _is_per_axis(scale: Value, block: int) -> bool:
    dimensions = scale.array.ndim if isinstance(scale, Host) else scale.dim()
    return dimensions == 1 and not block


@operator("QuantizeLinear", static=(1, 2))
def _quantize_linear(node: Node, x: Tensor, scale: Value, zero_point: Value | None = None) -> Tensor:
    number = node.get("output_dtype", 0)
    dtype = zero_point.dtype if zero_point is not None else torch_dtype(number) if number else torch.uint8
    precision = torch_dtype(node.get("precision", 0)) if node.get("precision", 0) else scale.dtype
    if dtype not in INTEGERS + FLOAT8 or precision not in _FLOATS:
        raise Opaque(f"quantization to {dtype} with a scale of {scale.dtype}")
    axis, block = node.get("axis", 1) % max(x.dim(), 1), node.get("block_size", 0)
    if dtype in INTEGERS and x.dtype == precision == scale.dtype == torch.float32:
        whole = _torch_quantize(x, scale, zero_point, axis, block, dtype)
        if whole is not None:
            return whole
    ratio = as_type(x, precision) / _spread(as_type(tensor(scale), precision), x, axis, block)
    if dtype in FLOAT8:
        return _to_float8(as_type(ratio, torch.float32), dtype, saturate=bool(node.get("saturate", 1)))
    level = as_type(torch.round(ratio), torch.float32)
    if zero_point is not None:
        level = level + _spread(as_type(tensor(zero_point), torch.int32), x, axis, block)
    limits = torch.iinfo(dtype)
    return as_type(torch.clamp(level, limits.min, limits.max), dtype)


def _torch_quantize(
    x: Tensor, scale: Value, zero_point: Value | None, axis: int, block: int, dtype: torch.dtype
) -> Tensor | None:
    """The same as torch's own operator, which exporters write back as QuantizeLinear; None where it has no form.

    torch multiplies by the inverse of the scale where ONNX divides: results on the border between two levels may
    differ by one level.
    """
    limits = torch.iinfo(dtype)
    factor, shift = _number(scale, 1.0), _number(zero_point, 0)
    if factor is not None and shift is not None:
        return _OPS.quantize_per_tensor(x, factor, shift, limits.min, limits.max, dtype)
    if not _is_per_axis(scale, block):
        return None
    scales = tensor(scale)
    if scales.numel() == 1:
        return None
    shifts = (
        torch.zeros_like(scales, dtype=torch.int64) if zero_point is None else as_type(tensor(zero_point), torch.int64)
    )
    return _OPS.quantize_per_channel(x, scales, shifts, axis, limits.min, limits.max, dtype)


def _shifts(zero_point: Value | None, scales: Tensor) -> Tensor:
    if zero_point is None:
        return torch.zeros_like(scales, dtype=torch.int64)
    return as_type(tensor(zero_point), torch.int64)


def _to_float8(x: Tensor, dtype: torch.dtype, *, saturate: bool) -> Tensor:
    if saturate:
        largest = torch.finfo(dtype).max
        x = torch.clamp(x, -largest, largest)
    return as_type(x, dtype)


@operator("DequantizeLinear", static=(1, 2))
def _dequantize_linear(node: Node, x: Tensor, scale: Value, zero_point: Value | None = None) -> Tensor:
    number = node.get("output_dtype", 0)
    dtype = torch_dtype(number) if number else scale.dtype
    if scale.dtype not in _FLOATS or dtype not in _FLOATS or x.dtype not in (*INTEGERS, torch.int32, *FLOAT8):
        raise Opaque(f"dequantization from {x.dtype} with a scale of {scale.dtype}")
    axis, block = node.get("axis", 1) % max(x.dim(), 1), node.get("block_size", 0)
    if x.dtype not in FLOAT8 and scale.dtype == dtype == torch.float32:
        whole = _torch_dequantize(x, scale, zero_point, axis, block)
        if whole is not None:
            return whole
    level = as_type(x, torch.float32)
    if zero_point is not None and x.dtype not in FLOAT8:
        level = level - _spread(as_type(tensor(zero_point), torch.float32), x, axis, block)
    return as_type(level * _spread(as_type(tensor(scale), torch.float32), x, axis, block), dtype)


def _torch_dequantize(x: Tensor, scale: Value, zero_point: Value | None, axis: int, block: int) -> Tensor | None:
    limits = torch.iinfo(x.dtype)
    factor, shift = _number(scale, 1.0), _number(zero_point, 0)
    if factor is not None and shift is not None:
        return _OPS.dequantize_per_tensor(x, factor, shift, limits.min, limits.max, x.dtype)
    if not _is_per_axis(scale, block):
        return None
    scales = tensor(scale)
    if scales.numel() == 1:
        return None
    shifts = (
        torch.zeros_like(scales, dtype=torch.int64) if zero_point is None else as_type(tensor(zero_point), torch.int64)
    )
    return _OPS.dequantize_per_channel(x, scales, shifts, axis, limits.min, limits.max, x.dtype)
