"""Comparisons, boolean and bitwise operators, bit shifts, and tests for infinities and NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tersor.capture.onnx.operators.integers import modular, ordered
from tersor.capture.onnx.operators.precision import as_type
from tersor.capture.onnx.operators.scalars import operands
from tersor.capture.onnx.registry import Function, Node, operator
from tersor.capture.onnx.values import Host, Value, tensor


def _comparison(function: Callable[..., Tensor], flipped: Callable[..., Tensor]) -> Function:
    def replay(node: Node, a: Value, b: Value) -> Tensor:
        x, y = operands(a, b)
        if not isinstance(x, Tensor):
            return flipped(ordered(y), x)
        return function(ordered(x), ordered(y))

    return replay


for _name, _function, _flipped in (
    ("Equal", torch.eq, torch.eq),
    ("Less", torch.lt, torch.gt),
    ("LessOrEqual", torch.le, torch.ge),
    ("Greater", torch.gt, torch.lt),
    ("GreaterOrEqual", torch.ge, torch.le),
):
    operator(_name, static=(0, 1))(_comparison(_function, _flipped))


@operator("And")
def _and(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.logical_and(a, b)


@operator("Or")
def _or(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.logical_or(a, b)


@operator("Xor")
def _xor(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.logical_xor(a, b)


@operator("Not")
def _not(node: Node, x: Tensor) -> Tensor:
    return torch.logical_not(x)


@operator("BitwiseAnd")
def _bitwise_and(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return modular(torch.bitwise_and, a, b)


@operator("BitwiseOr")
def _bitwise_or(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return modular(torch.bitwise_or, a, b)


@operator("BitwiseXor")
def _bitwise_xor(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return modular(torch.bitwise_xor, a, b)


@operator("BitwiseNot")
def _bitwise_not(node: Node, x: Tensor) -> Tensor:
    return modular(torch.bitwise_not, x)


@operator("BitShift", static=(1,))
def _bit_shift(node: Node, x: Tensor, amount: Value) -> Tensor:
    bits = x.dtype.itemsize * 8
    wide = as_type(x, torch.int64)
    by: Any = _constant_amount(amount, x, bits)
    inside = None
    if by is None:
        by = as_type(tensor(amount), torch.int64)
        inside = (by >= 0) & (by < bits)
        by = by.clamp(0, bits - 1)
    if node.get("direction") == "LEFT":
        shifted, fill = torch.bitwise_left_shift(wide, by), torch.zeros_like(wide)
    else:
        shifted, fill = _shift_right(x, wide, by), torch.where(_negative(x, wide), -1, 0)
    return as_type(shifted if inside is None else torch.where(inside, shifted, fill), x.dtype)


def _constant_amount(amount: Value, x: Tensor, bits: int) -> int | None:
    if not isinstance(amount, Host) or amount.array.size != 1 or amount.array.ndim > x.dim():
        return None
    by = amount.array.item()
    return by if isinstance(by, int) and 0 <= by < bits else None


def _shift_right(x: Tensor, wide: Tensor, by: Any) -> Tensor:
    shifted = torch.bitwise_right_shift(wide, by)
    if x.dtype != torch.uint64:
        return shifted
    # The sign bit of int64 is a value bit of uint64: clear the copies of it that an arithmetic shift brings in.
    mask = torch.bitwise_right_shift(torch.full_like(wide, 2**63 - 1), by)
    logical = torch.bitwise_or(torch.bitwise_left_shift(mask, 1), 1)
    return torch.bitwise_and(shifted, logical)


def _negative(x: Tensor, wide: Tensor) -> Tensor:
    return wide < 0 if x.dtype.is_signed else torch.zeros_like(wide, dtype=torch.bool)


@operator("IsInf")
def _is_inf(node: Node, x: Tensor) -> Tensor:
    y = as_type(x, torch.float32) if x.dtype.itemsize == 1 else x
    positive, negative = node.get("detect_positive", 1), node.get("detect_negative", 1)
    if positive and negative:
        return torch.isinf(y)
    if positive:
        return torch.isposinf(y)
    return torch.isneginf(y) if negative else torch.zeros_like(y, dtype=torch.bool)


@operator("IsNaN")
def _is_nan(node: Node, x: Tensor) -> Tensor:
    return torch.isnan(as_type(x, torch.float32) if x.dtype.itemsize == 1 else x)
