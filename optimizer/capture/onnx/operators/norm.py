"""Normalizations: batch, layer, RMS, instance, group, Lp, local response, mean-variance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tersor.capture.onnx.operators.precision import as_type, at_least_single
from tersor.capture.onnx.operators.scalars import wanted
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Opaque

_EPSILON = 1e-5


@operator("BatchNormalization")
def _batch_norm(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    if node.get("spatial", 1) == 0:
        raise Opaque("batch normalization with spatial=0")
    training = bool(node.get("training_mode", 0))
    if node.version < 14 and any(wanted(node, i) for i in range(1, 5)):
        raise Opaque("batch normalization in training mode of opsets below 14")
    planes = x.unsqueeze(1) if x.dim() == 1 else x
    parameters = (scale, bias, mean, variance)
    dtype = x.dtype
    if any(p.dtype != dtype for p in parameters):
        dtype = torch.float64 if torch.float64 in (dtype, *(p.dtype for p in parameters)) else torch.float32
    weight, shift, center, spread = (as_type(p, dtype) for p in parameters)
    y = F.batch_norm(
        as_type(planes, dtype),
        None if training else center,
        None if training else spread,
        weight,
        shift,
        training,
        eps=node.get("epsilon", _EPSILON),
    )
    y = as_type(y.reshape(x.shape), x.dtype) if x.dim() == 1 else as_type(y, x.dtype)
    return (y, *_running_statistics(node, planes, mean, variance)) if training else y


def _running_statistics(node: Node, x: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    keep = node.get("momentum", 0.9)
    dims = [d for d in range(x.dim()) if d != 1]
    wide = at_least_single(x)
    spread, center = torch.var_mean(wide, dims, correction=0)
    return (
        as_type(mean * keep + center * (1 - keep), mean.dtype),
        as_type(variance * keep + spread * (1 - keep), variance.dtype),
    )


def layer_norm(x: Tensor, axis: int, scale: Tensor | None, bias: Tensor | None, epsilon: float) -> Tensor:
    """Layer normalization over the dimensions from ``axis`` on; scale and bias broadcast to those dimensions."""
    shape = x.shape[axis:]
    whole = all(p is None or p.shape == shape for p in (scale, bias))
    if whole and all(p is None or p.dtype == x.dtype for p in (scale, bias)):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    wide = at_least_single(x)
    y = F.layer_norm(wide, shape, None, None, epsilon)
    y = y if scale is None else y * scale
    return as_type(y if bias is None else y + bias, x.dtype)


def rms_norm(x: Tensor, axis: int, scale: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square normalization over the dimensions from ``axis`` on."""
    shape = x.shape[axis:]
    if scale.shape == shape and scale.dtype == x.dtype:
        return F.rms_norm(x, shape, scale, epsilon)
    wide = at_least_single(x)
    return as_type(F.rms_norm(wide, shape, None, epsilon) * scale, x.dtype)


def statistics(node: Node, x: Tensor, axis: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """Mean and inverse standard deviation over the dimensions from ``axis`` on, kept as ones, in ``stash_type``."""
    wide = x if x.dtype == torch.float64 or node.get("stash_type", 1) != 1 else as_type(x, torch.float32)
    variance, mean = torch.var_mean(wide, list(range(axis, x.dim())), correction=0, keepdim=True)
    return mean, torch.rsqrt(variance + epsilon)


@operator("LayerNormalization")
def _layer_normalization(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    axis = node.get("axis", -1) % x.dim()
    epsilon = node.get("epsilon", _EPSILON)
    y = layer_norm(x, axis, scale, bias, epsilon)
    if not wanted(node, 1) and not wanted(node, 2):
        return y
    return (y, *statistics(node, x, axis, epsilon))


@operator("RMSNormalization")
def _rms_normalization(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    return rms_norm(x, node.get("axis", -1) % x.dim(), scale, node.get("epsilon", _EPSILON))


@operator("InstanceNormalization")
def _instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=node.get("epsilon", _EPSILON))


@operator("GroupNormalization", since=18)
def _group_norm_by_groups(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    each = x.shape[1] // node.get("num_groups")
    return _group_norm(node, x, scale.repeat_interleave(each), bias.repeat_interleave(each))


@operator("GroupNormalization", since=21)
def _group_norm_by_channels(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return _group_norm(node, x, scale, bias)


def _group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.group_norm(x, node.get("num_groups"), scale, bias, node.get("epsilon", _EPSILON))


@operator("LpNormalization")
def _lp_normalization(node: Node, x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, node.get("p", 2), node.get("axis", -1), keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@operator("MeanVarianceNormalization")
def _mean_variance_normalization(node: Node, x: Tensor) -> Tensor:
    dims = list(node.get("axes", [0, 2, 3]))
    mean = torch.mean(x, dims, keepdim=True)
    deviation = torch.sqrt(torch.mean(x * x, dims, keepdim=True) - mean * mean)
    return (x - mean) / (deviation + 1e-9)


@operator("LRN")
def _lrn(node: Node, x: Tensor) -> Tensor:
    size = node.get("size")
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    if size % 2:
        return F.local_response_norm(x, size, alpha, beta, bias)
    # torch takes the extra channel of an even window from below, ONNX from above.
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    channels = torch.movedim(x * x, 1, -1)
    mean = F.pad(channels, (before, after)).unfold(-1, size, 1).mean(-1)
    return x / torch.pow(torch.movedim(mean, -1, 1) * alpha + bias, beta)
