"""Elementwise arithmetic: unary functions, binary operators with broadcasting, and the variadic Sum, Mean, Max, Min."""

from __future__ import annotations

import functools
import operator as python
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tersor.capture.onnx.operators.integers import WIDER, choosing, divide, modular, remainder
from tersor.capture.onnx.operators.precision import as_type
from tersor.capture.onnx.operators.scalars import number_or_tensor, operands
from tersor.capture.onnx.registry import Function, Node, operator
from tersor.capture.onnx.values import Host, Opaque, Value, numbers, tensor

FLOAT_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh, "Atan": torch.atan,
    "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh, "Erf": torch.erf,
    "Exp": torch.exp, "Floor": torch.floor, "Log": torch.log, "Reciprocal": torch.reciprocal,
    "Round": torch.round, "Sigmoid": torch.sigmoid, "Sin": torch.sin, "Sinh": torch.sinh, "Sqrt": torch.sqrt,
    "Tan": torch.tan, "Tanh": torch.tanh,
}  # fmt: skip


def _float_function(function: Callable[[Tensor], Tensor]) -> Function:
    def replay(node: Node, x: Tensor) -> Tensor:
        return function(x) if x.is_floating_point() else as_type(function(as_type(x, torch.float64)), x.dtype)

    return replay


for _name, _function in FLOAT_FUNCTIONS.items():
    operator(_name)(_float_function(_function))


@operator("Abs")
def _abs(node: Node, x: Tensor) -> Tensor:
    return x if x.dtype in WIDER or x.dtype == torch.uint8 else torch.abs(x)


@operator("Neg")
def _neg(node: Node, x: Tensor) -> Tensor:
    return torch.neg(x)


@operator("Sign")
def _sign(node: Node, x: Tensor) -> Tensor:
    return as_type(x != 0, x.dtype) if x.dtype in WIDER else torch.sign(x)


def _binary(function: Callable[[Any, Any], Tensor]) -> Function:
    def replay(node: Node, a: Value, b: Value) -> Tensor:
        return modular(function, *operands(a, b))

    return replay


for _name, _binary_function in {"Add": python.add, "Sub": python.sub, "Mul": python.mul}.items():
    operator(_name, static=(0, 1))(_binary(_binary_function))


@operator("Div", static=(0, 1))
def _div(node: Node, a: Value, b: Value) -> Tensor:
    x, y = operands(a, b)
    if not (y if isinstance(y, Tensor) else x).is_floating_point():
        return divide(x, y)
    if isinstance(x, Tensor):
        return x / y
    # torch computes `number / tensor` as `reciprocal * number`, which rounds twice.
    return torch.reciprocal(y) if isinstance(x, float) and x == 1 else torch.div(tensor(a), y)


@operator("Mod", static=(0, 1))
def _mod(node: Node, a: Value, b: Value) -> Tensor:
    x, y = operands(a, b)
    return remainder(tensor(a) if not isinstance(x, Tensor) else x, y, truncated=node.get("fmod", 0) == 1)


@operator("Pow", static=(1,))
def _pow(node: Node, x: Tensor, exponent: Value) -> Tensor:
    y: Any = tensor(exponent) if isinstance(exponent, Host) and exponent.array.ndim > x.dim() else exponent
    if isinstance(y, Host):
        y = y.array.item() if y.array.size == 1 else tensor(y)
    if x.is_floating_point():
        return as_type(torch.pow(x, y), x.dtype)
    if isinstance(y, float) or (isinstance(y, Tensor) and y.is_floating_point()):
        return as_type(torch.pow(as_type(x, torch.float64), y), x.dtype)
    if isinstance(y, int) and y < 0:
        y = torch.full_like(x, y)
    return torch.pow(x, as_type(y, x.dtype) if isinstance(y, Tensor) else y)


@operator("Sum")
def _sum(node: Node, *inputs: Tensor) -> Tensor:
    return functools.reduce(torch.add, inputs)


@operator("Mean")
def _mean(node: Node, *inputs: Tensor) -> Tensor:
    return functools.reduce(torch.add, inputs) / len(inputs)


def _extreme(name: str) -> Function:
    pair = torch.maximum if name == "Max" else torch.minimum
    bound = "min" if name == "Max" else "max"

    def combine(a: Value, b: Value) -> Tensor:
        x, y = operands(a, b)
        if not isinstance(x, Tensor):
            x, y = y, x
        return choosing(pair, x, y) if isinstance(y, Tensor) else torch.clamp(x, **{bound: y})

    def replay(node: Node, *inputs: Value) -> Tensor:
        return tensor(functools.reduce(combine, inputs))

    return replay


operator("Max", static=(0, 1))(_extreme("Max"))
operator("Min", static=(0, 1))(_extreme("Min"))


@operator("Clip", since=1)
def _clip_by_attributes(node: Node, x: Tensor) -> Tensor:
    low, high = node.get("min"), node.get("max")
    return x if low is None and high is None else torch.clamp(x, low, high)


@operator("Clip", since=11, static=(1, 2))
def _clip(node: Node, x: Tensor, low: Value | None = None, high: Value | None = None) -> Tensor:
    bounds = [None if b is None else _bound(b, x) for b in (low, high)]
    if bounds == [None, None]:
        return x
    if any(isinstance(b, Tensor) for b in bounds):
        bounds = [b if b is None or isinstance(b, Tensor) else torch.scalar_tensor(b, dtype=x.dtype) for b in bounds]
    return choosing(torch.clamp, x, *bounds)


def _bound(value: Value, x: Tensor) -> Any:
    bound = number_or_tensor(value.reshape(()) if isinstance(value, Tensor) else _scalar(value), x)
    return as_type(bound, x.dtype) if isinstance(bound, Tensor) else bound


def _scalar(value: Host) -> Host:
    return Host(value.array.reshape(()), value.dtype)


@operator("CumSum", static=(1,))
def _cumsum(node: Node, x: Tensor, axis: Value) -> Tensor:
    return _cumulative(node, x, axis, torch.cumsum, 0)


@operator("CumProd", static=(1,))
def _cumprod(node: Node, x: Tensor, axis: Value) -> Tensor:
    return _cumulative(node, x, axis, torch.cumprod, 1)


def _cumulative(node: Node, x: Tensor, axis: Value, function: Callable[..., Tensor], neutral: int) -> Tensor:
    (dim,) = numbers(axis, "the axis")
    if not isinstance(dim, int):
        raise Opaque("the axis depends on a shape")
    accumulate = torch.int64 if x.dtype in WIDER else x.dtype
    y = as_type(x, accumulate)
    if node.get("reverse", 0):
        y = y.flip(dim)
    if node.get("exclusive", 0):
        first = torch.full_like(y.narrow(dim, 0, 1), neutral)
        y = torch.cat([first, y.narrow(dim, 0, y.shape[dim] - 1)], dim)
    y = function(y, dim, dtype=accumulate)
    if node.get("reverse", 0):
        y = y.flip(dim)
    return as_type(y, x.dtype)
