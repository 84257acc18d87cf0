"""Pooling over windows and over whole planes, and the inverse of max pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tersor.capture.onnx.operators.convolution import convolve
from tersor.capture.onnx.operators.precision import as_type
from tersor.capture.onnx.operators.scalars import wanted
from tersor.capture.onnx.operators.windows import Windows, ceil_ends, pad, windows
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Opaque, Value, numbers

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _geometry(node: Node, x: Tensor) -> tuple[Windows, bool]:
    w = windows(node, x.shape[2:], node.get("kernel_shape"))
    auto = node.get("auto_pad", "NOTSET")
    ceil = bool(node.get("ceil_mode", 0)) and any(s > 1 for s in w.strides)
    if ceil and auto == "VALID":
        raise Opaque("ceil_mode with auto_pad VALID: runtimes disagree on the size")
    beyond = any(s > k for s, k in zip(w.strides, w.kernel, strict=True))
    if auto.startswith("SAME") and (beyond or max(w.dilations) > 1):
        raise Opaque("auto_pad SAME with dilations, or with strides beyond the kernel: runtimes disagree")
    return w, ceil and auto in ("NOTSET", "")


def _torch_can_pad(w: Windows) -> bool:
    return w.symmetric and all(0 <= p <= k // 2 for p, k in zip(w.begin, w.kernel, strict=True))


@operator("MaxPool")
def _max_pool(node: Node, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    w, ceil = _geometry(node, x)
    y = x if x.is_floating_point() else as_type(x, torch.float32)  # 8-bit integers, exact in single precision
    lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    begin: tuple[Any, ...] = (0,) * w.rank
    padding = w.begin
    if not _torch_can_pad(w):
        begin, padding = w.begin, (0,) * w.rank
        y = pad(y, w.begin, ceil_ends(w, x.shape[2:]) if ceil else w.end, lowest)
        ceil = False
    arguments = (w.kernel, w.strides, padding, w.dilations, ceil)
    if not wanted(node, 1):
        return as_type(_MAX[w.rank](y, *arguments), x.dtype)
    pooled, flat = _MAX[w.rank](y, *arguments, return_indices=True)
    return as_type(pooled, x.dtype), _over_whole_tensor(flat, y.shape[2:], begin, x, node.get("storage_order", 0))


def _over_whole_tensor(flat: Tensor, padded: Sequence[Any], begin: Sequence[Any], x: Tensor, order: int) -> Tensor:
    """Positions in one padded plane, as positions in the whole unpadded tensor."""
    coordinates = []
    for size, before in zip(reversed(padded), reversed(begin), strict=True):
        coordinates.append(flat % size - before)
        flat = torch.div(flat, size, rounding_mode="floor")
    sizes = list(x.shape[2:])
    steps = list(zip(reversed(coordinates), sizes, strict=True))
    index = torch.zeros_like(flat)
    for coordinate, size in reversed(steps) if order else steps:
        index = index * size + coordinate
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(x.shape[0], x.shape[1], *[1] * len(sizes))
    return index + planes * math.prod(sizes)


def _window_mean(x: Tensor, w: Windows) -> Tensor:
    """The mean of each window; no padding, floor mode."""
    if all(d == 1 for d in w.dilations):
        return _AVERAGE[w.rank](x, w.kernel, w.strides)
    kernel = torch.full((1, 1, *w.kernel), 1 / math.prod(w.kernel), dtype=x.dtype, device=x.device)
    plain = Windows(w.kernel, w.strides, w.dilations, (0,) * w.rank, (0,) * w.rank)
    planes = convolve(x.flatten(0, 1).unsqueeze(1), kernel, None, plain, 1)
    return planes.reshape(x.shape[0], x.shape[1], *planes.shape[2:])


@operator("AveragePool")
def _average_pool(node: Node, x: Tensor) -> Tensor:
    w, ceil = _geometry(node, x)
    include = bool(node.get("count_include_pad", 0))
    if _torch_can_pad(w) and all(d == 1 for d in w.dilations):
        return _AVERAGE[w.rank](x, w.kernel, w.strides, w.begin, ceil, include)
    ends = ceil_ends(w, x.shape[2:]) if ceil else w.end
    mean = _window_mean(pad(x, w.begin, ends), w)
    if not ceil and (include or w.unpadded):
        return mean
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    counted = pad(counted, w.begin, w.end, float(include))
    rest = [after - end for after, end in zip(ends, w.end, strict=True)]
    return mean / _window_mean(pad(counted, [0] * w.rank, rest), w)


@operator("LpPool")
def _lp_pool(node: Node, x: Tensor) -> Tensor:
    w, ceil = _geometry(node, x)
    p = node.get("p", 2)
    padded = pad(x, w.begin, ceil_ends(w, x.shape[2:]) if ceil else w.end)
    powers = _window_mean(torch.abs(padded) if p == 1 else torch.pow(torch.abs(padded), p), w)
    return torch.pow(powers * math.prod(w.kernel), 1 / p)


def _planes(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


@operator("GlobalAveragePool")
def _global_average_pool(node: Node, x: Tensor) -> Tensor:
    return torch.mean(x, _planes(x), keepdim=True) if x.dim() > 2 else x


@operator("GlobalMaxPool")
def _global_max_pool(node: Node, x: Tensor) -> Tensor:
    return torch.amax(x, _planes(x), keepdim=True) if x.dim() > 2 else x


@operator("GlobalLpPool")
def _global_lp_pool(node: Node, x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, node.get("p", 2), _planes(x), keepdim=True) if x.dim() > 2 else torch.abs(x)


@operator("MaxUnpool", static=(2,))
def _max_unpool(node: Node, x: Tensor, indices: Tensor, output_shape: Value | None = None) -> Tensor:
    sizes = x.shape[2:]
    plain = Node("MaxUnpool", "", node.version, node.name, (), (), {**node.attributes, "auto_pad": "NOTSET"})
    w = windows(plain, sizes, node.get("kernel_shape"))
    parts = zip(sizes, w.strides, w.begin, w.end, w.kernel, strict=True)
    inferred = [*x.shape[:2], *((n - 1) * s - b - e + k for n, s, b, e, k in parts)]
    flat = torch.zeros(math.prod(inferred), dtype=x.dtype, device=x.device)
    y = flat.scatter(0, indices.reshape(-1), x.reshape(-1)).reshape(inferred)
    if output_shape is None:
        return y
    target = numbers(output_shape, "the output shape")[2:]
    return pad(y, [0] * w.rank, [t - n for t, n in zip(target, inferred[2:], strict=True)])
