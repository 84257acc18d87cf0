"""Activation functions, softmax and its relatives, and dropout as it is at inference."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tersor.capture.onnx.operators.integers import choosing
from tersor.capture.onnx.operators.precision import as_type
from tersor.capture.onnx.operators.scalars import wanted
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Opaque, Value, numbers

# The defaults of the specification, to single precision.
_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


@operator("Relu")
def _relu(node: Node, x: Tensor) -> Tensor:
    return choosing(F.relu, x)


@operator("LeakyRelu")
def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node.get("alpha", 0.01))


@operator("ThresholdedRelu")
def _thresholded_relu(node: Node, x: Tensor) -> Tensor:
    return F.threshold(x, node.get("alpha", 1.0), 0.0)


@operator("PRelu")
def _prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    if x.is_floating_point() and slope.dtype == x.dtype and _per_channel(x, slope):
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, slope * x, x)


def _per_channel(x: Tensor, slope: Tensor) -> bool:
    if slope.numel() == 1:
        return True
    if x.dim() < 2 or slope.dim() not in (x.dim() - 1, x.dim()) or not isinstance(x.shape[1], int):
        return False
    sizes = list(slope.shape)
    return sizes[-(x.dim() - 1)] == x.shape[1] == slope.numel()


@operator("Elu")
def _elu(node: Node, x: Tensor) -> Tensor:
    return F.elu(x, node.get("alpha", 1.0))


@operator("Celu")
def _celu(node: Node, x: Tensor) -> Tensor:
    return F.celu(x, node.get("alpha", 1.0))


@operator("Selu")
def _selu(node: Node, x: Tensor) -> Tensor:
    alpha, gamma = node.get("alpha", _SELU_ALPHA), node.get("gamma", _SELU_GAMMA)
    if (alpha, gamma) == (_SELU_ALPHA, _SELU_GAMMA) and x.dtype != torch.float64:
        return F.selu(x)
    return gamma * F.elu(x, alpha)


@operator("HardSigmoid")
def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5 and x.dtype != torch.float64:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@operator("HardSwish")
def _hard_swish(node: Node, x: Tensor) -> Tensor:
    return F.hardswish(x)


@operator("Mish")
def _mish(node: Node, x: Tensor) -> Tensor:
    return F.mish(x)


@operator("Gelu")
def _gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.get("approximate", "none"))


def swish(x: Tensor, alpha: float) -> Tensor:
    """``x * sigmoid(alpha * x)``."""
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("Swish")
def _swish(node: Node, x: Tensor) -> Tensor:
    return swish(x, node.get("alpha", 1.0))


@operator("SwiGLU")
def _swiglu(node: Node, gate: Tensor, value: Tensor) -> Tensor:
    return swish(gate, node.get("alpha", 1.0)) * value


@operator("Softplus")
def _softplus(node: Node, x: Tensor) -> Tensor:
    # Above its threshold torch returns x itself: from 20 on that is exact in single precision, from 40 in double.
    return F.softplus(x, threshold=40.0 if x.dtype == torch.float64 else 20.0)


@operator("Softsign")
def _softsign(node: Node, x: Tensor) -> Tensor:
    return F.softsign(x)


@operator("Shrink")
def _shrink(node: Node, x: Tensor) -> Tensor:
    limit, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    inner = torch.where(x > limit, as_type(x - bias, x.dtype), torch.zeros_like(x))
    return torch.where(x < -limit, as_type(x + bias, x.dtype), inner)


def _hardmax_last(x: Tensor) -> Tensor:
    return _hardmax_along(x, -1)


def _hardmax_along(x: Tensor, axis: int) -> Tensor:
    shape = [1] * x.dim()
    shape[axis] = -1
    positions = torch.arange(x.shape[axis], device=x.device).reshape(shape)
    return as_type(positions == x.argmax(axis, keepdim=True), x.dtype)


def _softmax_last(x: Tensor) -> Tensor:
    return F.softmax(x, -1)


def _log_softmax_last(x: Tensor) -> Tensor:
    return F.log_softmax(x, -1)


def _flattened(node: Node, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Before opset 13 these operators saw the tensor as a matrix, split at ``axis``."""
    axis = node.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == x.dim() - 1:
        return function(x)
    return function(x.flatten(axis)).reshape(x.shape)


@operator("Softmax")
def _softmax_flattened(node: Node, x: Tensor) -> Tensor:
    return _flattened(node, x, _softmax_last)


@operator("LogSoftmax")
def _log_softmax_flattened(node: Node, x: Tensor) -> Tensor:
    return _flattened(node, x, _log_softmax_last)


@operator("Hardmax")
def _hardmax_flattened(node: Node, x: Tensor) -> Tensor:
    return _flattened(node, x, _hardmax_last)


@operator("Softmax", since=13)
def _softmax(node: Node, x: Tensor) -> Tensor:
    return F.softmax(x, node.get("axis", -1))


@operator("LogSoftmax", since=13)
def _log_softmax(node: Node, x: Tensor) -> Tensor:
    return F.log_softmax(x, node.get("axis", -1))


@operator("Hardmax", since=13)
def _hardmax(node: Node, x: Tensor) -> Tensor:
    return _hardmax_along(x, node.get("axis", -1))


@operator("Dropout", static=(1, 2))
def _dropout(
    node: Node, x: Tensor, ratio: Value | None = None, training: Value | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    if training is not None and any(numbers(training, "the training mode")):
        rate = 0.5 if ratio is None else numbers(ratio, "the dropout ratio")[0]
        if rate != 0:
            raise Opaque("dropout in training mode is random")
    if not wanted(node, 1):
        return x
    # Up to opset 9 the mask had the type of the data.
    return x, torch.ones_like(x, dtype=x.dtype if node.version < 10 else torch.bool)
