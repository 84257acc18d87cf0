"""Interpolation along one axis, in every coordinate system that ONNX knows (operator Resize, opset 19)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tersor.capture.onnx.operators.precision import as_type
from tersor.capture.onnx.values import Opaque


@dataclass(frozen=True)
class Method:
    """How to interpolate, in the words of the operator's attributes.

    Attributes:
        kind: nearest, linear or cubic.
        rounding: which neighbour is the nearest.
        cubic: the coefficient a of the cubic kernel.
        outside: the value outside the image, for tf_crop_and_resize.
    """

    kind: str
    coordinates: str = "half_pixel"
    rounding: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    outside: float = 0.0


@dataclass(frozen=True)
class Axis:
    """One axis and its new size (int or SymInt); the scale where the file gives it, else the ratio of the sizes."""

    dim: int
    size: Any
    scale: float | None
    roi: tuple[float, float] | None


def resize_axis(x: Tensor, axis: Axis, method: Method) -> Tensor:
    """``x`` resized along one axis; the result has the type of ``x``."""
    source = _source_coordinates(x, axis, method)
    length = x.shape[axis.dim]
    if method.kind == "nearest":
        y = x.index_select(axis.dim, _nearest(source, method.rounding).clamp(0, length - 1))
    else:
        y = _weighted(x, axis, method, source)
    if method.coordinates != "tf_crop_and_resize":
        return y
    inside = (source >= 0) & (source <= length - 1)
    shape = [1] * x.dim()
    shape[axis.dim] = -1
    return torch.where(inside.reshape(shape), y, torch.full_like(y, method.outside))


def _source_coordinates(x: Tensor, axis: Axis, method: Method) -> Tensor:
    """Where each output position lies in the input, shape (size,), single precision as runtimes compute it."""
    length, size = x.shape[axis.dim], axis.size
    at = as_type(torch.arange(size, device=x.device), torch.float32)
    scale = size / length if axis.scale is None else axis.scale
    coordinates = method.coordinates
    single = isinstance(size, int) and size == 1
    if coordinates == "asymmetric":
        return at / scale
    if coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and not single):
        return (at + 0.5) / scale - 0.5
    if coordinates == "pytorch_half_pixel":
        return at * 0.0
    if coordinates == "align_corners":
        return at * 0.0 if single else at * (length - 1) / (size - 1)
    if coordinates == "half_pixel_symmetric":
        return length / 2 * (1 - size / (scale * length)) + (at + 0.5) / scale - 0.5
    if coordinates == "tf_crop_and_resize" and axis.roi is not None:
        start, end = axis.roi
        if single:
            return at + 0.5 * (start + end) * (length - 1)
        return start * (length - 1) + at * ((end - start) * (length - 1)) / (size - 1)
    raise Opaque(f"the coordinate transformation {coordinates}")


def _nearest(source: Tensor, rounding: str) -> Tensor:
    rounded = {
        "round_prefer_floor": lambda: torch.ceil(source - 0.5),
        "round_prefer_ceil": lambda: torch.floor(source + 0.5),
        "floor": lambda: torch.floor(source),
        "ceil": lambda: torch.ceil(source),
    }
    return as_type(rounded[rounding](), torch.int64)


def _weighted(x: Tensor, axis: Axis, method: Method, source: Tensor) -> Tensor:
    """The sum over the taps of the kernel; taps outside the image see its edge."""
    length = x.shape[axis.dim]
    shrink = _shrink(x, axis) if method.antialias else 1.0
    reach = math.ceil((1 if method.kind == "linear" else 2) / shrink)
    base = torch.floor(source)
    taps = [base + k for k in range(1 - reach, reach + 1)]
    weights = [_kernel((tap - source) * shrink, method) for tap in taps]
    if method.exclude_outside:
        weights = [w * ((tap >= 0) & (tap <= length - 1)) for w, tap in zip(weights, taps, strict=True)]
    if method.exclude_outside or method.antialias:
        total = torch.stack(weights).sum(0)
        weights = [w / total for w in weights]
    shape = [1] * x.dim()
    shape[axis.dim] = -1
    parts = [
        x.index_select(axis.dim, as_type(tap, torch.int64).clamp(0, length - 1)) * as_type(w, x.dtype).reshape(shape)
        for tap, w in zip(taps, weights, strict=True)
    ]
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


def _shrink(x: Tensor, axis: Axis) -> float:
    scale = axis.size / x.shape[axis.dim] if axis.scale is None else axis.scale
    if not isinstance(scale, float | int):
        raise Opaque("antialiasing with dynamic sizes")
    return min(float(scale), 1.0)


def _kernel(distance: Tensor, method: Method) -> Tensor:
    """The interpolation kernel at a distance in pixels; the cubic one is equation (4) of Keys, 1981."""
    d = torch.abs(distance)
    if method.kind == "linear":
        return (1 - d).clamp(min=0)
    a = method.cubic
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
