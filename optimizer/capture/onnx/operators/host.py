"""Operators on host values: exact numpy arithmetic where all items are numbers, SymInt arithmetic where not."""

from __future__ import annotations

import math
import operator as python
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from tersor.capture.onnx.dtypes import LOW_PRECISION, ONNX_DTYPES, torch_dtype
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Host, Opaque

_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)


def concrete(value: Host) -> np.ndarray | None:
    """The items as a numpy array of the value's own type; None where one is symbolic."""
    if any(isinstance(item, _SYMBOLS) for item in value.array.reshape(-1)):
        return None
    if value.dtype in LOW_PRECISION:
        raise Opaque(f"numpy has no {value.dtype}")
    return value.array.astype(_numpy_dtype(value.dtype))


def _numpy_dtype(dtype: torch.dtype) -> np.dtype:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(ONNX_DTYPES[dtype]))


def objects(items: Any) -> np.ndarray:
    """A numpy array, or a single item, as an object array of Python numbers."""
    if isinstance(items, np.ndarray) and items.dtype == object:
        return items
    if isinstance(items, np.ndarray | np.generic):
        return np.array(items.tolist(), dtype=object).reshape(items.shape)
    single = np.empty((), dtype=object)
    single[()] = items
    return single


def elementwise(
    exact: Callable[..., Any], symbolic: Callable[..., Any], *inputs: Host, dtype: torch.dtype | None = None
) -> Host:
    """Apply ``exact`` to numpy arrays, or ``symbolic`` to one item of each at a time, with broadcasting."""
    arrays = [concrete(value) for value in inputs]
    result_type = dtype or inputs[-1].dtype
    if all(array is not None for array in arrays):
        with np.errstate(all="ignore"):
            return Host(objects(exact(*arrays)), result_type)
    items = np.frompyfunc(symbolic, len(inputs), 1)(*(value.array for value in inputs))
    return Host(objects(items), result_type)


def _binary(name: str, exact: Any, symbolic: Any, dtype: torch.dtype | None = None, since: int = 7) -> None:
    def function(node: Node, a: Host, b: Host) -> Host:
        return elementwise(exact, symbolic, a, b, dtype=dtype)

    operator(name, since=since, host=True)(function)


def _unary(name: str, exact: Any, symbolic: Any, dtype: torch.dtype | None = None) -> None:
    def function(node: Node, a: Host) -> Host:
        return elementwise(exact, symbolic, a, dtype=dtype)

    operator(name, host=True)(function)


_binary("Add", np.add, python.add)
_binary("Sub", np.subtract, python.sub)
_binary("Mul", np.multiply, python.mul)
_binary("Equal", np.equal, python.eq, torch.bool)
_binary("Greater", np.greater, python.gt, torch.bool)
_binary("Less", np.less, python.lt, torch.bool)
_binary("GreaterOrEqual", np.greater_equal, python.ge, torch.bool, since=12)
_binary("LessOrEqual", np.less_equal, python.le, torch.bool, since=12)
_binary("And", np.logical_and, python.and_, torch.bool)
_binary("Or", np.logical_or, python.or_, torch.bool)
_unary("Neg", np.negative, python.neg)
_unary("Abs", np.abs, abs)
_unary("Floor", np.floor, lambda item: torch.sym_float(math.floor(item)))
_unary("Ceil", np.ceil, lambda item: torch.sym_float(math.ceil(item)))
_unary("Sqrt", np.sqrt, lambda item: item**0.5)
_unary("Not", np.logical_not, torch.sym_not, torch.bool)
_unary("Identity", lambda array: array, lambda item: item)


@operator("Div", since=7, host=True)
def divide(node: Node, a: Host, b: Host) -> Host:
    """Integers are divided towards zero, as ONNX Runtime and C do."""
    if a.dtype.is_floating_point:
        return elementwise(np.divide, python.truediv, a, b)
    return elementwise(_truncated, _whole_quotient, a, b)


def _truncated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if np.any(b == 0):
        raise Opaque("an integer is divided by zero")
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) == (b < 0), quotient, -quotient).astype(a.dtype)


def _whole_quotient(a: Any, b: Any) -> Any:
    if a >= 0 and b > 0:
        return a // b
    raise Opaque("the quotient of sizes may be negative")


@operator("Mod", since=10, host=True)
def modulo(node: Node, a: Host, b: Host) -> Host:
    """The sign is that of the divisor, or with ``fmod`` that of the dividend."""
    if node.get("fmod", 0):
        return elementwise(np.fmod, math.fmod, a, b)
    return elementwise(np.mod, python.mod, a, b)


@operator("Min", since=8, host=True)
def minimum(node: Node, *inputs: Host) -> Host:
    """Least item of each place."""
    return _folded(np.minimum, torch.sym_min, inputs)


@operator("Max", since=8, host=True)
def maximum(node: Node, *inputs: Host) -> Host:
    """Greatest item of each place."""
    return _folded(np.maximum, torch.sym_max, inputs)


def _folded(exact: Any, symbolic: Any, inputs: Sequence[Host]) -> Host:
    result = inputs[0]
    for value in inputs[1:]:
        result = elementwise(exact, symbolic, result, value)
    return result


@operator("Where", since=9, host=True)
def where(node: Node, condition: Host, x: Host, y: Host) -> Host:
    """Items of ``x`` or ``y``; a condition on sizes that is always true or false is decided without a guard."""
    return elementwise(np.where, _choice, condition, x, y)


def _choice(condition: Any, x: Any, y: Any) -> Any:
    if not isinstance(condition, torch.SymBool):
        return x if condition else y
    if statically_known_true(condition):
        return x
    if statically_known_true(torch.sym_not(condition)):
        return y
    return torch.sym_ite(condition, x, y)


@operator("Cast", host=True)
def cast(node: Node, x: Host) -> Host:
    """To the type ``to``."""
    return _to(x, torch_dtype(node.get("to")))


@operator("CastLike", since=15, host=True)
def cast_like(node: Node, x: Host, like: Host) -> Host:
    """To the type of ``like``."""
    return _to(x, like.dtype)


def _to(x: Host, dtype: torch.dtype) -> Host:
    array = concrete(x)
    if dtype in LOW_PRECISION or dtype.is_complex:
        raise Opaque(f"numpy has no {dtype}")
    if array is not None:
        with np.errstate(all="ignore"):
            return Host(objects(array.astype(_numpy_dtype(dtype))), dtype)
    convert = _nonzero if dtype == torch.bool else torch.sym_float if dtype.is_floating_point else torch.sym_int
    return Host(objects(np.frompyfunc(convert, 1, 1)(x.array)), dtype)


def _nonzero(item: Any) -> Any:
    return item != 0


def _reduction(name: str, exact: Any, symbolic: Any, axes_as_input: int) -> None:
    def by_attribute(node: Node, x: Host) -> Host:
        return _reduced(x, node.get("axes"), node, exact, symbolic)

    def by_input(node: Node, x: Host, axes: Host | None = None) -> Host:
        along = None if axes is None or not axes.array.size else [int(axis) for axis in axes.array]
        if along is None and node.get("noop_with_empty_axes", 0):
            return x
        return _reduced(x, along, node, exact, symbolic)

    operator(name, host=True)(by_attribute)
    operator(name, since=axes_as_input, host=True)(by_input)


def _reduced(x: Host, axes: Sequence[int] | None, node: Node, exact: Any, symbolic: Any) -> Host:
    array = concrete(x)
    rank = x.array.ndim
    along = sorted(axis % rank for axis in range(rank) if axes is None or axis in {a % rank for a in axes})
    if not x.array.size:
        raise Opaque("nothing to reduce")
    result: Any = x.array if array is None else array
    function = np.frompyfunc(symbolic, 2, 1) if array is None else exact
    for axis in along:
        result = function.reduce(result, axis=axis, keepdims=True)
    if array is not None:
        result = result.astype(array.dtype)
    if not node.get("keepdims", 1):
        result = objects(result).reshape([size for axis, size in enumerate(result.shape) if axis not in along])
    return Host(objects(result), x.dtype)


_reduction("ReduceSum", np.add, python.add, 13)
_reduction("ReduceProd", np.multiply, python.mul, 18)
_reduction("ReduceMax", np.maximum, torch.sym_max, 18)
_reduction("ReduceMin", np.minimum, torch.sym_min, 18)
