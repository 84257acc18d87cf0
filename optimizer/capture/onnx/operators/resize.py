"""Resize and Upsample: as `F.interpolate` where torch computes the same, else axis by axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from tersor.capture.onnx.operators.interpolation import Axis, Method, resize_axis
from tersor.capture.onnx.operators.precision import as_type
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Opaque, Value, numbers

_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


@dataclass(frozen=True)
class _Request:
    """What a node asks for; one item per dimension of the tensor."""

    sizes: list[Any]
    scales: list[float] | None
    rois: list[tuple[float, float]] | None


def _same(a: Any, b: Any) -> bool:
    return a is b or bool(statically_known_true(a == b))


def scaled_size(size: Any, scale: float) -> Any:
    """``floor(size * scale)`` as runtimes compute it, in single precision; for a SymInt as a ratio of integers.

    >>> scaled_size(10, float(np.float32(0.7)))
    7
    """
    if isinstance(size, int):
        return int(np.floor(np.float32(size) * np.float32(scale)))
    ratio = Fraction(scale).limit_denominator(4096)
    if np.float32(float(ratio)) != np.float32(scale):
        raise Opaque(f"a dynamic dimension times {scale}")
    return size * ratio.numerator // ratio.denominator


def _request(node: Node, x: Tensor, roi: Value | None, scales: Value | None, sizes: Value | None) -> _Request:
    rank = x.dim()
    axes = [axis % rank for axis in node.get("axes") or range(rank)]
    rois = None
    if node.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        if roi is None:
            raise Opaque("a crop without a region")
        flat = numbers(roi, "the region of interest")
        rois = [(0.0, 1.0)] * rank
        for i, axis in enumerate(axes):
            rois[axis] = (float(flat[i]), float(flat[len(axes) + i]))
    target = [] if sizes is None else numbers(sizes, "the sizes")
    if not target:
        if scales is None:
            raise Opaque("neither scales nor sizes")
        return _by_scales(x, axes, [float(s) for s in numbers(scales, "the scales")], rois)
    return _by_sizes(node, x, axes, target, rois)


def _by_scales(x: Tensor, axes: Sequence[int], given: list[float], rois: list[tuple[float, float]] | None) -> _Request:
    scales, sizes = [1.0] * x.dim(), list(x.shape)
    for axis, scale in zip(axes, given, strict=True):
        scales[axis] = scale
        if scale != 1:
            sizes[axis] = scaled_size(x.shape[axis], scale)
    return _Request(sizes, scales, rois)


def _by_sizes(
    node: Node, x: Tensor, axes: Sequence[int], target: list[Any], rois: list[tuple[float, float]] | None
) -> _Request:
    sizes = list(x.shape)
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        for axis, size in zip(axes, target, strict=True):
            sizes[axis] = size
        return _Request(sizes, None, rois)
    if not all(isinstance(n, int) for n in (*target, *(x.shape[a] for a in axes))):
        raise Opaque("a kept aspect ratio with dynamic sizes")
    ratios = [size / x.shape[axis] for axis, size in zip(axes, target, strict=True)]
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    scales = [1.0] * x.dim()
    for axis in axes:
        scales[axis], sizes[axis] = ratio, int(ratio * x.shape[axis] + 0.5)
    return _Request(sizes, scales, rois)


def _resize(node: Node, x: Tensor, request: _Request, method: Method) -> Tensor:
    changed = [
        d
        for d in range(x.dim())
        if not _same(request.sizes[d], x.shape[d])
        or (request.scales is not None and request.scales[d] != 1)
        or (request.rois is not None and request.rois[d] != (0.0, 1.0))
    ]
    if not changed:
        return x
    kept = [_same(request.sizes[d], x.shape[d]) for d in changed]
    if all(kept) or (any(kept) and method.kind != "nearest"):
        raise Opaque("an axis that is sampled anew but keeps its size: runtimes disagree")
    if method.kind != "nearest" and not x.is_floating_point():
        raise Opaque("interpolated integers: runtimes round them differently")
    whole = _interpolate(x, request, method, changed)
    if whole is not None:
        return whole
    wide = x if x.dtype == torch.float64 or method.kind == "nearest" else as_type(x, torch.float32)
    for d in changed:
        scale = None if request.scales is None else request.scales[d]
        roi = None if request.rois is None else request.rois[d]
        wide = resize_axis(wide, Axis(d, request.sizes[d], scale, roi), method)
    return as_type(wide, x.dtype)


def _interpolate(x: Tensor, request: _Request, method: Method, changed: list[int]) -> Tensor | None:
    """The whole resize as one `F.interpolate`, or None where torch computes something else."""
    if x.dim() not in _LINEAR or min(changed) < 2 or not x.is_floating_point() or request.rois is not None:
        return None
    scales = None if request.scales is None else request.scales[2:]
    how = _torch_mode(x, request, method, scales)
    if how is None:
        return None
    mode, corners = how
    if scales is not None and _torch_agrees(x, request.sizes[2:], scales):
        return F.interpolate(x, None, scales, mode, corners, recompute_scale_factor=False)
    if scales is not None and not corners:
        return None  # torch would take the ratio of the sizes where ONNX takes the given scale
    return F.interpolate(x, request.sizes[2:], None, mode, corners)


def _torch_agrees(x: Tensor, sizes: Sequence[Any], scales: Sequence[float]) -> bool:
    """Whether torch derives the same output sizes from the scales (in double precision)."""
    for size, target, scale in zip(x.shape[2:], sizes, scales, strict=True):
        if isinstance(size, int):
            if int(size * scale) != target:
                return False
        elif scale < float(Fraction(scale).limit_denominator(4096)):
            return False
    return True


def _torch_mode(
    x: Tensor, request: _Request, method: Method, scales: Sequence[float] | None
) -> tuple[str, bool | None] | None:
    if method.kind == "nearest":
        upward = scales is not None and all(s >= 1 and s == int(s) for s in scales)
        half = method.coordinates in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
        # At whole upward factors the pixel that contains the half-pixel centre is the one that "floor" takes.
        if upward and half and method.rounding.startswith("round"):
            return "nearest", None
        floor = method.coordinates == "asymmetric" and method.rounding == "floor"
        return ("nearest", None) if floor else None
    corners = method.coordinates == "align_corners"
    short = any(_same(n, 1) for n in request.sizes[2:])
    half = method.coordinates == "half_pixel" or (method.coordinates == "pytorch_half_pixel" and not short)
    if not (corners or half) or method.exclude_outside or method.antialias:
        return None
    if method.kind == "linear":
        return _LINEAR[x.dim()], corners
    return ("bicubic", corners) if x.dim() == 4 and method.cubic == -0.75 else None


def _method(node: Node, x: Tensor, request: _Request) -> Method:
    method = Method(
        kind=node.get("mode", "nearest"),
        coordinates=node.get("coordinate_transformation_mode", "half_pixel"),
        rounding=node.get("nearest_mode", "round_prefer_floor"),
        cubic=node.get("cubic_coeff_a", -0.75),
        exclude_outside=bool(node.get("exclude_outside", 0)),
        antialias=bool(node.get("antialias", 0)),
        outside=node.get("extrapolation_value", 0.0),
    )
    if method.coordinates == "align_corners" and request.scales is not None:
        lengths = [s * n if isinstance(n, int) else s for s, n in zip(request.scales, x.shape, strict=True)]
        if any(abs(length - round(length)) > 1e-3 for length in lengths):
            raise Opaque("align_corners with a fractional size: runtimes disagree")
    return method


@operator("Resize", since=11, static=(1, 2, 3))
def _resize_11(
    node: Node, x: Tensor, roi: Value | None = None, scales: Value | None = None, sizes: Value | None = None
) -> Tensor:
    request = _request(node, x, roi, scales, sizes)
    return _resize(node, x, request, _method(node, x, request))


@operator("Resize", "Upsample", since=9, static=(1,))
def _resize_10(node: Node, x: Tensor, scales: Value) -> Tensor:
    return _upsample(node, x, [float(s) for s in numbers(scales, "the scales")])


@operator("Upsample", since=7)
def _upsample_7(node: Node, x: Tensor) -> Tensor:
    return _upsample(node, x, node.get("scales"))


def _upsample(node: Node, x: Tensor, scales: list[float]) -> Tensor:
    """The early operators had no choice of coordinates: asymmetric, and the lower neighbour as the nearest."""
    kind = node.get("mode", "nearest")
    method = Method("linear" if "linear" in kind else kind, "asymmetric", "floor")
    return _resize(node, x, _by_scales(x, range(x.dim()), scales, None), method)
