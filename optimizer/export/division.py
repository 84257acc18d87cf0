"""Division that rounds, from ATen to ONNX."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.function_libs.torch_lib.ops.core import aten_div_mode, aten_floor_divide

from tersor.export.record import Value, op, scalar


def divide(data: Value, other: Any, rounding_mode: str | None = None) -> Value:
    """A rounded quotient; of whole numbers, ONNX's Div is the truncated one.

    torch.onnx goes through float32, which does not have all whole numbers beyond 2**24.
    """
    pair = _whole(data, other)
    if pair is None or rounding_mode is None:
        return aten_div_mode(data, other, rounding_mode=rounding_mode)
    return op.Div(*pair) if rounding_mode == "trunc" else _floor(*pair)


def floor_divide(data: Value, other: Any) -> Value:
    """A quotient that is rounded down."""
    pair = _whole(data, other)
    return aten_floor_divide(data, other) if pair is None else _floor(*pair)


def _floor(data: Value, divisor: Value) -> Value:
    """One less than the truncated quotient where that is too large; five nodes instead of eight for one divisor."""
    known = ir.convenience.get_const_tensor(divisor)
    if known is None or known.size != 1 or not known.numpy().any():
        return aten_floor_divide(data, divisor)
    quotient = op.Div(data, divisor)
    above, below = op.Mul(quotient, divisor), data
    if known.numpy().reshape(()) < 0:
        above, below = below, above
    return op.Sub(quotient, op.Cast(op.Greater(above, below), to=data.dtype))


def _whole(data: Value, other: Any) -> tuple[Value, Value] | None:
    """Both as tensors, where they are whole numbers of one type that every runtime divides."""
    if data.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return None
    divisor = scalar(other, data) if type(other) is int else other
    known = ir.convenience.get_const_tensor(divisor) if isinstance(divisor, ir.Value) else None
    dtype = getattr(divisor, "dtype", None) if known is None else known.dtype
    return (data, divisor) if dtype == data.dtype else None
