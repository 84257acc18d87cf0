"""Normalization, from ATen to ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch

from tersor.export.record import Value, constant, ints, op, op23, scalar, torch_dtype


def batch_norm(
    data: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Value, Value, Value]:
    """BatchNormalization of inference; the two other results of the ATen operator are empty and unused."""
    normal = whole_batch_norm(data, weight, bias, mean, variance, eps=eps)
    return normal, op.Identity(mean), op.Identity(mean)


def whole_batch_norm(
    data: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    """aten.batch_norm with known statistics."""
    if training:
        raise NotImplementedError("batch norm in training")
    channels = mean.shape[0]
    scale = weight if weight is not None else _filled(1.0, [channels], data.dtype)
    shift = bias if bias is not None else _filled(0.0, [channels], data.dtype)
    return op.BatchNormalization(data, scale, shift, mean, variance, epsilon=eps)


def group_norm(
    data: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    """InstanceNormalization over the groups, then the affine part: every runtime has these."""
    channels, rank = data.shape[1], len(data.shape)
    grouped = op.Reshape(data, ints(0, groups, -1))
    one, zero = _filled(1.0, [groups], data.dtype), _filled(0.0, [groups], data.dtype)
    normal = op.InstanceNormalization(grouped, one, zero, epsilon=eps)
    whole = op.Reshape(normal, op.Shape(data))
    column = op.Constant(value_ints=[channels] + [1] * (rank - 2))
    if weight is not None:
        whole = op.Mul(whole, op.Reshape(weight, column))
    return whole if bias is None else op.Add(whole, op.Reshape(bias, column))


def rms_norm(data: Value, shape: Sequence[int], weight: Value | None = None, eps: float | None = None) -> Value:
    """The chain that ONNX Runtime recognises as one operator; computed in float32 as ATen does."""
    half = data.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    wide = op.Cast(data, to=ir.DataType.FLOAT) if half else data
    number = torch.finfo(torch_dtype(data.dtype)).eps if eps is None else eps
    axes = ints(*range(-len(shape), 0))
    mean = op.ReduceMean(op.Pow(wide, scalar(2.0, wide)), axes, keepdims=1)
    normal = op.Div(wide, op.Sqrt(op.Add(mean, scalar(number, wide))))
    normal = op.Cast(normal, to=data.dtype) if half else normal
    return normal if weight is None else op.Mul(normal, weight)


def rms_norm_node(
    data: Value, shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Value:  # fmt: skip
    """One RMSNormalization node of opset 23, which computes in float32 as ATen does."""
    number = torch.finfo(torch_dtype(data.dtype)).eps if eps is None else eps
    scale = weight if weight is not None else _filled(1.0, shape, data.dtype)
    return op23.RMSNormalization(data, scale, axis=-len(shape), epsilon=number)


def _filled(number: float, shape: Sequence[int], dtype: ir.DataType) -> Value:
    return constant(torch.full(list(shape), number, dtype=torch_dtype(dtype)))
