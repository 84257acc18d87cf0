"""The operators of ONNX Runtime's own domain, com.microsoft, that torch computes exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tersor.capture.onnx.operators.convolution import convolve
from tersor.capture.onnx.operators.linear import gemm
from tersor.capture.onnx.operators.norm import layer_norm, rms_norm, statistics
from tersor.capture.onnx.operators.precision import as_type, at_least_single
from tersor.capture.onnx.operators.scalars import wanted
from tersor.capture.onnx.operators.windows import windows
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Opaque

_DOMAIN = "com.microsoft"
_SKIP_EPSILON = 1e-12


@operator("Gelu", domain=_DOMAIN)
def _gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x)


@operator("BiasGelu", domain=_DOMAIN)
def _bias_gelu(node: Node, x: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(x + bias)


@operator("FastGelu", domain=_DOMAIN)
def _fast_gelu(node: Node, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu", domain=_DOMAIN)
def _quick_gelu(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.702) * x)


_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "Relu": lambda x, *_: F.relu(x),
    "Sigmoid": lambda x, *_: torch.sigmoid(x),
    "Tanh": lambda x, *_: torch.tanh(x),
    "LeakyRelu": lambda x, alpha=0.01, *_: F.leaky_relu(x, alpha),
    "Clip": lambda x, low, high: torch.clamp(x, low, high),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5, *_: torch.clamp(alpha * x + beta, 0.0, 1.0),
}


def _activate(name: str, x: Tensor, parameters: list[float]) -> Tensor:
    if not name:
        return x
    if name not in _ACTIVATIONS:
        raise Opaque(f"the fused activation {name}")
    return _ACTIVATIONS[name](x, *parameters)


@operator("FusedMatMul", "TransposeMatMul", domain=_DOMAIN)
def _fused_matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    if node.get("transBatchA", 0) or node.get("transBatchB", 0):
        raise Opaque("a product of transposed batches")
    a = a.transpose(-2, -1) if node.get("transA", 0) and a.dim() > 1 else a
    b = b.transpose(-2, -1) if node.get("transB", 0) and b.dim() > 1 else b
    alpha = node.get("alpha", 1.0)
    product = torch.matmul(a, b)
    return product if alpha == 1 else product * alpha


@operator("FusedGemm", domain=_DOMAIN)
def _fused_gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    parameters = [node.get(name) for name in names if node.get(name) is not None]
    return _activate(node.get("activation", ""), gemm(node, a, b, c), parameters)


@operator("FusedConv", domain=_DOMAIN)
def _fused_conv(
    node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    w = windows(node, x.shape[2:], weight.shape[2:])
    y = convolve(x, weight, bias, w, node.get("group", 1))
    y = y if added is None else y + added
    return _activate(node.get("activation", ""), y, list(node.get("activation_params", [])))


@operator("SkipLayerNormalization", domain=_DOMAIN)
def _skip_layer_norm(
    node: Node, x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    total, epsilon = _residual(x, skip, bias), node.get("epsilon", _SKIP_EPSILON)
    y = layer_norm(total, total.dim() - 1, scale, shift, epsilon)
    return (y, *_moments(node, total, epsilon), total)


@operator("SkipSimplifiedLayerNormalization", domain=_DOMAIN)
def _skip_rms_norm(
    node: Node, x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    if wanted(node, 1) or wanted(node, 2):
        raise Opaque("the statistics of a fused normalization")
    total = _residual(x, skip, bias)
    return rms_norm(total, total.dim() - 1, scale, node.get("epsilon", _SKIP_EPSILON)), None, None, total


def _residual(x: Tensor, skip: Tensor, bias: Tensor | None) -> Tensor:
    total = x + skip
    return total if bias is None else total + bias


def _moments(node: Node, x: Tensor, epsilon: float) -> tuple[Tensor | None, Tensor | None]:
    if not wanted(node, 1) and not wanted(node, 2):
        return None, None
    return statistics(node, x, x.dim() - 1, epsilon)


@operator("SimplifiedLayerNormalization", domain=_DOMAIN)
@operator("SimplifiedLayerNormalization")
def _rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    axis, epsilon = node.get("axis", -1) % x.dim(), node.get("epsilon", 1e-5)
    y = rms_norm(x, axis, scale, epsilon)
    if not wanted(node, 1):
        return y
    wide = at_least_single(x)
    return y, torch.rsqrt(torch.mean(wide * wide, list(range(axis, x.dim())), keepdim=True) + epsilon)


@operator("EmbedLayerNormalization", domain=_DOMAIN)
def _embed_layer_norm(
    node: Node,
    ids: Tensor,
    segments: Tensor | None,
    words: Tensor,
    places: Tensor,
    segment_table: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
) -> tuple[Any, ...]:
    if positions is None:
        positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
    total = F.embedding(as_type(ids, torch.int64), words) + F.embedding(as_type(positions, torch.int64), places)
    if segments is not None and segment_table is not None:
        total = total + F.embedding(as_type(segments, torch.int64), segment_table)
    y = layer_norm(total, 2, scale, shift, node.get("epsilon", _SKIP_EPSILON))
    counts = torch.zeros_like(ids[:, 0]) if mask is None else torch.sum(mask, 1)
    return y, as_type(counts, torch.int32), total
