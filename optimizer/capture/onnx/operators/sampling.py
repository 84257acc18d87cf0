"""Sampling images at computed positions: GridSample, AffineGrid, RoiAlign."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tersor.capture.onnx.operators.precision import as_type
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Opaque, Value, numbers

_MODES = {"bilinear": "bilinear", "linear": "bilinear", "nearest": "nearest", "bicubic": "bicubic", "cubic": "bicubic"}


@operator("GridSample")
def _grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    mode = _MODES[node.get("mode", "bilinear")]
    if not x.is_floating_point() or x.dim() not in (4, 5) or (x.dim() == 5 and mode == "bicubic"):
        raise Opaque(f"{mode} sampling of {x.dtype} of rank {x.dim()}")
    wide = torch.promote_types(x.dtype, grid.dtype)
    wide = wide if wide in (torch.float32, torch.float64) else torch.float32
    padding, corners = node.get("padding_mode", "zeros"), bool(node.get("align_corners", 0))
    return as_type(F.grid_sample(as_type(x, wide), as_type(grid, wide), mode, padding, corners), x.dtype)


@operator("AffineGrid", static=(1,))
def _affine_grid(node: Node, theta: Tensor, size: Value) -> Tensor:
    return F.affine_grid(theta, numbers(size, "the size"), bool(node.get("align_corners", 0)))


@operator("RoiAlign", since=10)
def _roi_align_10(node: Node, x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
    return _roi_align(node, x, rois, batch, 0.0)


@operator("RoiAlign", since=16)
def _roi_align_16(node: Node, x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
    half = node.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    return _roi_align(node, x, rois, batch, 0.5 if half else 0.0)


def _roi_align(node: Node, x: Tensor, rois: Tensor, batch: Tensor, offset: float) -> Tensor:
    samples = node.get("sampling_ratio", 0)
    if samples <= 0:
        raise Opaque("a sampling grid that depends on the regions")
    height, width = node.get("output_height", 1), node.get("output_width", 1)
    corners = rois * node.get("spatial_scale", 1.0) - offset
    across = _positions(corners[:, 0], corners[:, 2], width, samples, x.shape[3], malformed=offset == 0)
    down = _positions(corners[:, 1], corners[:, 3], height, samples, x.shape[2], malformed=offset == 0)
    # One table of pixels: the exporter knows a lookup, but not an index of several tensors with a slice between them.
    pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    first = batch.reshape(-1, 1, 1) * (x.shape[2] * x.shape[3])
    terms = [
        # (regions, rows, columns, channels), weighted by how near the sample lies to this pixel
        F.embedding(first + row.unsqueeze(2) * x.shape[3] + column.unsqueeze(1), pixels)
        * (v.unsqueeze(2) * u.unsqueeze(1)).unsqueeze(-1)
        for row, v in down
        for column, u in across
    ]
    largest = node.get("mode", "avg") == "max"
    values = torch.stack(terms).amax(0) if largest else torch.stack(terms).sum(0)
    grid = values.reshape(rois.shape[0], height, samples, width, samples, x.shape[1])
    return (grid.amax((2, 4)) if largest else grid.mean((2, 4))).permute(0, 3, 1, 2)


def _positions(
    start: Tensor, end: Tensor, bins: int, samples: int, length: int, *, malformed: bool
) -> list[tuple[Tensor, Tensor]]:
    """Lower and upper pixel of every sample along one axis, each with its weight; shapes (regions, bins * samples)."""
    extent = (end - start).clamp(min=1.0) if malformed else end - start
    steps = (as_type(torch.arange(bins * samples, device=start.device), start.dtype) + 0.5) / (bins * samples)
    position = start[:, None] + extent[:, None] * steps
    inside = as_type((position >= -1.0) & (position <= length), start.dtype)
    position = position.clamp(min=0.0).clamp(max=length - 1)
    low = position.floor()
    upper = position - low
    high = (low + 1).clamp(max=length - 1)
    return [(as_type(low, torch.int64), (1 - upper) * inside), (as_type(high, torch.int64), upper * inside)]
