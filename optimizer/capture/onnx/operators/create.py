"""Operators that create tensors from shapes, bounds and constants."""

from __future__ import annotations

from typing import Any

import torch

from tersor.capture.onnx.dtypes import torch_dtype
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Host, Value, numbers


@operator("ConstantOfShape", since=9, static=(0,))
def constant_of_shape(node: Node, shape: Value) -> torch.Tensor:
    """A tensor full of ``value`` (a tensor of one item, by default float 0)."""
    fill, dtype = fill_of(node)
    return torch.full(numbers(shape, "the shape of a ConstantOfShape"), fill, dtype=dtype)


def fill_of(node: Node) -> tuple[Any, torch.dtype]:
    """Item and type that a ConstantOfShape is filled with."""
    value = node.get("value")
    return (0.0, torch.float32) if value is None else (value.item(), value.dtype)


@operator("Range", since=11, static=(0, 1, 2))
def range_(node: Node, start: Value, limit: Value, delta: Value) -> torch.Tensor:
    """Numbers from ``start`` up to and without ``limit`` in steps of ``delta``."""
    first, last, step = (numbers(value, "a bound of a Range")[0] for value in (start, limit, delta))
    return torch.arange(first, last, step, dtype=start.dtype)


@operator("EyeLike", since=9)
def eye_like(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Ones on diagonal ``k``, of the shape of ``x``."""
    dtype = torch_dtype(node.get("dtype")) if node.get("dtype") else x.dtype
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    columns = torch.arange(x.shape[1], device=x.device)
    return (columns - rows == node.get("k", 0)).to(dtype)


@operator("Constant")
def constant(node: Node) -> torch.Tensor | Host:
    """A constant inside an inlined function whose value was an attribute of the call."""
    value = node.get("value")
    if isinstance(value, torch.Tensor):
        return value
    (item,) = node.attributes.values()
    first = item[0] if isinstance(item, list) and item else item
    return torch.tensor(item, dtype=torch.float32 if isinstance(first, float) else torch.int64)
