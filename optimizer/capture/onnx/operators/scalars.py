"""Constant operands of one element as Python numbers, the form that captured PyTorch code has too."""

from __future__ import annotations

from typing import Any

import torch

from tersor.capture.onnx.operators.integers import WIDER
from tersor.capture.onnx.registry import Node
from tersor.capture.onnx.values import Host, Value, tensor


def number_or_tensor(value: Value, other: torch.Tensor) -> Any:
    """A Python number where that changes neither the shape nor the type of ``value op other``, else a tensor."""
    if isinstance(value, torch.Tensor):
        return value
    fits = value.array.size == 1 and value.array.ndim <= other.dim()
    same = value.dtype == other.dtype and other.dtype not in WIDER and other.dtype != torch.bool
    return value.array.item() if fits and same else tensor(value)


def operands(a: Value, b: Value) -> tuple[Any, Any]:
    """Both operands of a binary operator, at least one of them a tensor."""
    if isinstance(a, Host) and isinstance(b, torch.Tensor):
        return number_or_tensor(a, b), b
    first = tensor(a)
    return first, number_or_tensor(b, first)


def wanted(node: Node, index: int) -> bool:
    """Whether the file gives a name to this output."""
    return index < len(node.outputs) and bool(node.outputs[index])
