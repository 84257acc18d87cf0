"""Recording of ONNX nodes while torch.onnx translates: constants, and the operators of two opsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import evaluator, opset18, opset23

Value = Any
"""An ONNX value while it is recorded; carries ``shape`` and ``dtype``."""

op: Any = opset18
op23: Any = opset23


def ints(*numbers: int) -> Value:
    """A constant vector of int64."""
    return op.Constant(value_ints=list(numbers))


def scalar(number: float, like: Value) -> Value:
    """A constant without axes, of the dtype of ``like``; float32 where that is not known."""
    dtype = ir.DataType.FLOAT if like.dtype is None else like.dtype
    return constant(torch.tensor(number, dtype=torch_dtype(dtype)))


def constant(tensor: torch.Tensor) -> Value:
    """A constant with the content of a tensor."""
    return op.Constant(value=ir.tensor(tensor))


def vector(size: Any) -> Value:
    """A size, a number or a computed scalar, as a vector of one."""
    return ints(size) if isinstance(size, int) else op.Reshape(size, ints(-1))


def torch_dtype(dtype: ir.DataType) -> torch.dtype:
    """The torch dtype of an ONNX one."""
    return ir.tensor_adapters.to_torch_dtype(dtype)


def recorded() -> list[ir.Node]:
    """The nodes recorded so far for the operator that is being translated."""
    recorder: Any = evaluator.default()
    nodes: list[ir.Node] = recorder.nodes
    return nodes


def each(values: Sequence[int], rank: int) -> list[int]:
    """One number per axis, from one or as many.

    >>> each([2], 3)
    [2, 2, 2]
    """
    return [int(value) for value in values] * (rank if len(values) == 1 else 1)
