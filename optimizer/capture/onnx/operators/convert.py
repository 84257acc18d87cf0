"""Operators that change the type of a tensor, or nothing at all."""

from __future__ import annotations

import torch

from tersor.capture.onnx.dtypes import LOW_PRECISION, torch_dtype
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Opaque


@operator("Identity")
def identity(node: Node, x: torch.Tensor) -> torch.Tensor:
    """The input."""
    return x


@operator("Cast")
def cast(node: Node, x: torch.Tensor) -> torch.Tensor:
    """To the type ``to``; 8-bit floats are clamped to their range unless ``saturate`` is 0 (opset 19)."""
    return _to(x, torch_dtype(node.get("to")), node)


@operator("CastLike", since=15)
def cast_like(node: Node, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """To the type of ``like``."""
    return _to(x, like.dtype, node)


def _to(x: torch.Tensor, dtype: torch.dtype, node: Node) -> torch.Tensor:
    if x.dtype == dtype:
        return x
    if x.is_complex() or dtype.is_complex:
        raise Opaque("ONNX Runtime decides what a cast of complex numbers means")
    if dtype == torch.float8_e4m3fn and not node.get("saturate", 1):
        raise Opaque("PyTorch saturates where ONNX wants NaN")
    if dtype in LOW_PRECISION - {torch.bfloat16}:
        limit = torch.finfo(dtype).max if node.get("saturate", 1) else torch.inf
        return x.clamp(-limit, limit).to(dtype)
    return x.to(dtype)


@operator("BitCast", since=26)
def bit_cast(node: Node, x: torch.Tensor) -> torch.Tensor:
    """The same bits read as another type of the same width."""
    dtype = torch_dtype(node.get("to"))
    if dtype.itemsize != x.dtype.itemsize:
        raise Opaque(f"{x.dtype} and {dtype} differ in width")
    return x.view(dtype)
