"""Matrix products and convolutions of 8-bit integers, exact to the last bit.

Torch has no integer products on the GPU and ONNX Runtime none of most types, so the sums are computed as floats, in a
way that never rounds: every partial sum is an integer that the type holds exactly. Matrix products run in double
precision. Convolutions run in single precision, because ONNX Runtime has no other; where their sums may reach 2^24,
the weight is split into its upper and lower four bits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tersor.capture.onnx.operators.convolution import convolve
from tersor.capture.onnx.operators.precision import as_type
from tersor.capture.onnx.operators.windows import windows
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Opaque

_EIGHT_BITS = (torch.int8, torch.uint8)
_LARGEST = 255  # of an 8-bit integer less its zero point
_EXACT = 2**24  # single precision holds all integers up to here


def _row(parameter: Tensor) -> Tensor:
    """A parameter of the left operand: one number, one per row (1-D), or already shaped."""
    return parameter.unsqueeze(-1) if parameter.dim() == 1 and parameter.numel() > 1 else parameter


def _centered(x: Tensor, zero_point: Tensor | None, dtype: torch.dtype) -> Tensor:
    if x.dtype not in _EIGHT_BITS:
        raise Opaque(f"an integer product of {x.dtype}")
    wide = as_type(x, dtype)
    if zero_point is None:
        return wide
    shift = as_type(zero_point, dtype)
    return wide - (shift.reshape(()) if shift.numel() == 1 else shift)


def _product(a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None) -> Tensor:
    left = _centered(a, None if a_zero is None else _row(a_zero), torch.float64)
    return as_type(torch.matmul(left, _centered(b, b_zero, torch.float64)), torch.int32)


@operator("MatMulInteger")
def _matmul_integer(
    node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    return _product(a, b, a_zero, b_zero)


def _requantize(total: Tensor, factor: Tensor, zero_point: Tensor | None, dtype: torch.dtype) -> Tensor:
    limits = torch.iinfo(dtype)
    level = torch.round(as_type(total, torch.float32) * factor)
    if zero_point is not None:
        level = level + as_type(zero_point, torch.float32).reshape(())
    return as_type(torch.clamp(level, limits.min, limits.max), dtype)


@operator("QLinearMatMul")
def _qlinear_matmul(
    node: Node,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    if y_scale.numel() != 1:
        raise Opaque("a product quantized per row")
    factor = (
        as_type(_row(a_scale), torch.float32)
        * as_type(b_scale, torch.float32)
        / as_type(y_scale, torch.float32).reshape(())
    )
    factor = factor.reshape(()) if factor.numel() == 1 else factor
    return _requantize(_product(a, b, a_zero, b_zero), factor, y_zero, y_zero.dtype)


def _channels(parameter: Tensor | None, rank: int) -> Tensor | None:
    """One number, or one per output channel, shaped to broadcast over the weight."""
    return parameter if parameter is None or parameter.numel() == 1 else parameter.reshape(-1, *[1] * (rank - 1))


def _convolution(
    node: Node, x: Tensor, weight: Tensor, x_zero: Tensor | None, w_zero: Tensor | None, bias: Tensor | None
) -> Tensor:
    terms = math.prod(weight.shape[1:])
    kernel = _centered(weight, _channels(w_zero, weight.dim()), torch.float32)
    data = _centered(x, x_zero, torch.float32)
    w = windows(node, x.shape[2:], weight.shape[2:])

    def exact(part: Tensor) -> Tensor:
        # Padding holds the zero point, which is 0 once it is subtracted. Rounding undoes the error of fast algorithms.
        return as_type(torch.round(convolve(data, part, None, w, node.get("group", 1))), torch.int32)

    if terms * _LARGEST * _LARGEST < _EXACT:
        total = exact(kernel)
    elif terms * _LARGEST * 16 < _EXACT:
        upper = torch.floor(kernel / 16)
        total = exact(upper) * 16 + exact(kernel - upper * 16)
    else:
        raise Opaque(f"an integer convolution that sums {terms} products")
    return total if bias is None else total + bias.reshape(-1, *[1] * w.rank)


@operator("ConvInteger")
def _conv_integer(
    node: Node, x: Tensor, weight: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    return _convolution(node, x, weight, x_zero, w_zero, None)


@operator("QLinearConv")
def _qlinear_conv(
    node: Node,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    factor = x_scale.reshape(()) * w_scale / y_scale.reshape(())
    factor = factor.reshape(()) if factor.numel() == 1 else factor.reshape(-1, *[1] * (x.dim() - 2))
    return _requantize(_convolution(node, x, weight, x_zero, w_zero, bias), factor, y_zero, y_zero.dtype)
