"""Convolution and resizing, from ATen to ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tersor.export.record import Value, each, ints, op, vector


def convolution(
    data: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] | str = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Value:
    """Conv, without a bias of zeros where the original has none."""
    rank = len(weight.shape) - 2
    dilations = each(dilation, rank)
    if isinstance(padding, str):
        reach = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilations, weight.shape[2:], strict=True)]
        pads = [total // 2 for total in reach] + [total - total // 2 for total in reach]
    else:
        pads = each(padding, rank) * 2
    attributes = {"strides": each(stride, rank), "dilations": dilations, "pads": pads, "group": groups}
    return _batched(data, rank, lambda batched: op.Conv(batched, weight, bias, **attributes))


def general_convolution(
    data: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    """aten.convolution, forward or transposed."""
    if transposed:
        return transposed_convolution(data, weight, bias, stride, padding, output_padding, groups, dilation)
    return convolution(data, weight, bias, stride, padding, dilation, groups)


def transposed_convolution(
    data: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Value:
    """ConvTranspose, without a bias of zeros where the original has none."""
    rank = len(weight.shape) - 2
    attributes = {
        "strides": each(stride, rank),
        "pads": each(padding, rank) * 2,
        "output_padding": each(output_padding, rank),
        "dilations": each(dilation, rank),
        "group": groups,
    }
    return _batched(data, rank, lambda batched: op.ConvTranspose(batched, weight, bias, **attributes))


def _batched(data: Value, rank: int, call: Callable[[Value], Value]) -> Value:
    """ONNX windows want a batch axis, ATen's may do without."""
    if len(data.shape) == rank + 2:
        return call(data)
    first = ints(0)
    return op.Squeeze(call(op.Unsqueeze(data, first)), first)


def upsample_nearest(data: Value, size: Any, factors: Sequence[float] | None = None) -> Value:
    """Resize as ATen's nearest does: the index is rounded down."""
    return _resize(
        data, size, factors, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )


def upsample_linear(data: Value, size: Any, align_corners: bool, factors: Sequence[float] | None = None) -> Value:
    """Resize by linear interpolation over one, two or three axes."""
    return _resize(data, size, factors, mode="linear", coordinate_transformation_mode=_coordinates(align_corners))


def upsample_cubic(data: Value, size: Any, align_corners: bool, factors: Sequence[float] | None = None) -> Value:
    """Resize by cubic interpolation with ATen's coefficient."""
    return _resize(
        data,
        size,
        factors,
        mode="cubic",
        coordinate_transformation_mode=_coordinates(align_corners),
        cubic_coeff_a=-0.75,
    )


def _coordinates(align_corners: bool) -> str:
    return "align_corners" if align_corners else "pytorch_half_pixel"


def _resize(data: Value, size: Any, factors: Sequence[float] | None, **attributes: Any) -> Value:
    scales = list(factors) if factors else _whole_scales(data, size)
    if scales is not None:
        return op.Resize(data, None, op.Constant(value_floats=[1.0, 1.0, *map(float, scales)]), None, **attributes)
    sizes = op.Concat(op.Shape(data, start=0, end=2), *[vector(item) for item in size], axis=0)
    return op.Resize(data, None, None, sizes, **attributes)


def _whole_scales(data: Value, size: Any) -> list[float] | None:
    """Exact scales of an output size, so that the batch needs no shape arithmetic."""
    pairs = list(zip(data.shape[2:], size, strict=True))
    if all(isinstance(a, int) and isinstance(b, int) and a and b % a == 0 for a, b in pairs):
        return [b / a for a, b in pairs]
    return None
