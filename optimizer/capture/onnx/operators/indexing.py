"""Operators that gather, scatter, select or order items by index."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Host, Opaque, Value, numbers, tensor

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("Gather", static=(1,))
def gather(node: Node, x: torch.Tensor, indices: Value) -> torch.Tensor:
    """Slices of ``x`` along ``axis``; negative indices count from the end."""
    axis = node.get("axis", 0) % x.dim()
    if isinstance(indices, Host) and indices.array.ndim == 0:
        return x.select(axis, indices.array.item())
    if isinstance(indices, Host) and _is_run(indices):
        first = indices.array[0]
        return x.narrow(axis, first, indices.array.size)
    index = tensor(indices)
    if index.device != x.device:
        index = index.to(x.device)
    if axis == 0 and x.dim() == 2 and x.is_floating_point() and index.dtype in (torch.int32, torch.int64):
        return F.embedding(index, x)
    return x[(slice(None),) * axis + (index.long(),)]


def _is_run(indices: Host) -> bool:
    """Whether the indices are 1-d and go up by one from a start that is not negative."""
    items = list(indices.array.reshape(-1))
    if indices.array.ndim != 1 or not items or not all(isinstance(item, int) for item in items):
        return False
    return items[0] >= 0 and items == list(range(items[0], items[0] + len(items)))


@operator("Compress", since=9, static=(1,))
def compress(node: Node, x: torch.Tensor, condition: Value) -> torch.Tensor:
    """Slices of ``x`` where a constant condition holds; of the flat tensor where there is no axis."""
    kept = [place for place, keep in enumerate(numbers(condition, "the condition of a Compress")) if keep]
    axis = node.get("axis")
    return (x.reshape(-1) if axis is None else x).index_select(axis or 0, torch.tensor(kept, device=x.device))


@operator("GatherElements", since=11, static=(1,))
def gather_elements(node: Node, x: torch.Tensor, indices: Value) -> torch.Tensor:
    """Items along ``axis``, one per index."""
    axis = node.get("axis", 0)
    return x.gather(axis, _positive(indices, x.shape[axis]))


def _positive(indices: Value, size: Any) -> torch.Tensor:
    """Indices as int64; constants lose their negative ones here, others must not have any (PyTorch refuses them)."""
    index = tensor(indices).long()
    if isinstance(indices, Host) and any(isinstance(item, int) and item < 0 for item in indices.array.reshape(-1)):
        return torch.where(index < 0, index + size, index)
    return index


@operator("GatherND", since=11)
def gather_nd(node: Node, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Slices of ``x`` at the points in the last axis of ``indices``, after ``batch_dims`` common axes."""
    return x[_points(x, indices.long(), node.get("batch_dims", 0))]


def _points(x: torch.Tensor, indices: torch.Tensor, batch_dims: int) -> tuple[torch.Tensor, ...]:
    points = tuple(indices.select(-1, i) for i in range(indices.shape[-1]))
    batches = []
    for axis in range(batch_dims):
        view = [1] * (indices.dim() - 1)
        view[axis] = -1
        batches.append(torch.arange(x.shape[axis], device=x.device).reshape(view))
    return (*batches, *points)


@operator("Scatter", "ScatterElements", static=(1,))
def scatter_elements(node: Node, x: torch.Tensor, indices: Value, updates: torch.Tensor) -> torch.Tensor:
    """``x`` with items along ``axis`` replaced, or combined by ``reduction`` (opset 16)."""
    axis, reduction = node.get("axis", 0), node.get("reduction", "none")
    index = _positive(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _REDUCTIONS[reduction])


@operator("ScatterND", since=11)
def scatter_nd(node: Node, x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
    """``x`` with slices at the points in the last axis of ``indices`` replaced or combined."""
    reduction = node.get("reduction", "none")
    points = _points(x, indices.long(), 0)
    if reduction in ("none", "add"):
        return x.index_put(points, updates, accumulate=reduction == "add")
    flat = torch.zeros_like(points[0])
    for axis, point in enumerate(points):
        size = x.shape[axis]
        flat = flat * size + torch.where(point < 0, point + size, point)
    rows = x.reshape(-1, *x.shape[len(points) :])
    index = flat.reshape([-1] + [1] * (rows.dim() - 1)).expand(-1, *rows.shape[1:])
    return rows.scatter_reduce(0, index, updates.reshape(index.shape), _REDUCTIONS[reduction]).reshape(x.shape)


@operator("TensorScatter", since=24)
def tensor_scatter(
    node: Node, past: torch.Tensor, update: torch.Tensor, starts: torch.Tensor | None = None
) -> torch.Tensor:
    """A cache (batch, …, length, …) with ``update`` written from ``starts[b]`` on; mode circular wraps around."""
    axis = node.get("axis", -2) % past.dim()
    steps = torch.arange(update.shape[axis], device=past.device)
    rows = steps.unsqueeze(0) if starts is None else starts.unsqueeze(1) + steps
    if node.get("mode", "linear") == "circular":
        rows = rows.remainder(past.shape[axis])
    view = [1] * past.dim()
    view[0], view[axis] = rows.shape[0], rows.shape[1]
    return past.scatter(axis, rows.reshape(view).expand(update.shape), update)


@operator("OneHot", since=9, static=(1,))
def one_hot(node: Node, indices: torch.Tensor, depth: Value, values: torch.Tensor) -> torch.Tensor:
    """``values[1]`` where an index points, else ``values[0]``; an index outside [-depth, depth) points nowhere."""
    count = int(numbers(depth, "the depth of a OneHot")[0])
    axis = node.get("axis", -1) % (indices.dim() + 1)
    index = indices.long()
    index = torch.where(index < 0, index + count, index).unsqueeze(axis)
    view = [1] * index.dim()
    view[axis] = count
    hit = index == torch.arange(count, device=index.device).reshape(view)
    return torch.where(hit, values[1], values[0])


@operator("Where", since=9)
def where(node: Node, condition: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Items of ``x`` or ``y``."""
    return torch.where(condition, x, y)


@operator("TopK")
def top_k_attribute(node: Node, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Opset 1: k is an attribute."""
    return tuple(x.topk(node.get("k"), node.get("axis", -1)))


@operator("TopK", since=10, static=(1,))
def top_k(node: Node, x: torch.Tensor, k: Value) -> tuple[torch.Tensor, ...]:
    """The k largest or smallest items and where they are; which of equal items come first is not fixed."""
    count = numbers(k, "the k of a TopK")[0]
    largest, ordered = bool(node.get("largest", 1)), bool(node.get("sorted", 1))
    return tuple(x.topk(count, node.get("axis", -1), largest, ordered))


@operator("CumSum", since=11, static=(1,))
def cumulative_sum(node: Node, x: torch.Tensor, axis: Value) -> torch.Tensor:
    """Running sum, optionally from the end (``reverse``) and without the item itself (``exclusive``)."""
    along = int(numbers(axis, "the axis of a CumSum")[0])
    return _running(node, x, along, lambda t: t.cumsum(along, dtype=t.dtype), 0)


@operator("CumProd", since=26, static=(1,))
def cumulative_product(node: Node, x: torch.Tensor, axis: Value) -> torch.Tensor:
    """Running product, with the same options as CumSum."""
    along = int(numbers(axis, "the axis of a CumProd")[0])
    return _running(node, x, along, lambda t: t.cumprod(along, dtype=t.dtype), 1)


def _running(node: Node, x: torch.Tensor, axis: int, scan: Any, neutral: int) -> torch.Tensor:
    if not -x.dim() <= axis < x.dim():
        raise Opaque(f"axis {axis} is outside rank {x.dim()}")
    x = x.flip(axis) if node.get("reverse", 0) else x
    if node.get("exclusive", 0):
        first = torch.full_like(x.narrow(axis, 0, 1), neutral)
        x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    result: torch.Tensor = scan(x)
    return result.flip(axis) if node.get("reverse", 0) else result
