"""Operators on host values that move, cut, join or repeat items: the other half of shape arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tersor.capture.onnx.operators.create import fill_of
from tersor.capture.onnx.operators.host import concrete, objects
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Host, Opaque, host

_ITEMS = 1024
"""Larger results become tensors."""


def _ints(value: Host | Sequence[int]) -> list[int]:
    items = list(value.array.reshape(-1)) if isinstance(value, Host) else list(value)
    if not all(isinstance(item, int) for item in items):
        raise Opaque("an axis, bound or count depends on a size")
    return items


def _like(x: Host, array: np.ndarray) -> Host:
    if array.size > _ITEMS:
        raise Opaque("too large for the host")
    return Host(array, x.dtype)


@operator("Shape", host=True)
def shape(node: Node, x: Host) -> Host:
    """Sizes of ``x``."""
    return host(list(x.array.shape)[slice(node.get("start", 0), node.get("end"))])


@operator("Size", host=True)
def size(node: Node, x: Host) -> Host:
    """Number of items."""
    return Host(objects(x.array.size))


@operator("Concat", host=True)
def concat(node: Node, *inputs: Host) -> Host:
    """Join along ``axis``."""
    return _like(inputs[0], np.concatenate([value.array for value in inputs], axis=node.get("axis", 1)))


@operator("Gather", host=True)
def gather(node: Node, x: Host, indices: Host) -> Host:
    """Items at constant indices."""
    index = np.array(_ints(indices), dtype=np.int64).reshape(indices.array.shape)
    return _like(x, objects(x.array.take(index, axis=node.get("axis", 0))))


@operator("Slice", host=True)
def slice_attribute(node: Node, x: Host) -> Host:
    """Until opset 9 the bounds are attributes."""
    starts = node.get("starts")
    return _slice(x, starts, node.get("ends"), node.get("axes") or range(len(starts)), [1] * len(starts))


@operator("Slice", since=10, host=True)
def slice_(node: Node, x: Host, starts: Host, ends: Host, axes: Host | None = None, steps: Host | None = None) -> Host:
    """Bounds, axes and steps as inputs."""
    first = _ints(starts)
    along = range(len(first)) if axes is None else _ints(axes)
    return _slice(x, first, _ints(ends), along, [1] * len(first) if steps is None else _ints(steps))


def _slice(x: Host, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]) -> Host:
    cuts: list[Any] = [slice(None)] * x.array.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cuts[axis] = slice(start, end, step)
    return _like(x, x.array[tuple(cuts)])


@operator("Squeeze", host=True)
def squeeze_attribute(node: Node, x: Host) -> Host:
    """Until opset 12 the axes are an attribute."""
    axes = node.get("axes")
    return _like(x, objects(x.array.squeeze(None if axes is None else tuple(axes))))


@operator("Squeeze", since=13, host=True)
def squeeze(node: Node, x: Host, axes: Host | None = None) -> Host:
    """Remove axes of size 1."""
    return _like(x, objects(x.array.squeeze(None if axes is None else tuple(_ints(axes)))))


@operator("Unsqueeze", host=True)
def unsqueeze_attribute(node: Node, x: Host) -> Host:
    """Until opset 12 the axes are an attribute."""
    return _like(x, np.expand_dims(x.array, tuple(node.get("axes"))))


@operator("Unsqueeze", since=13, host=True)
def unsqueeze(node: Node, x: Host, axes: Host) -> Host:
    """Insert axes of size 1."""
    return _like(x, np.expand_dims(x.array, tuple(_ints(axes))))


@operator("Reshape", since=5, host=True)
def reshape(node: Node, x: Host, target: Host) -> Host:
    """0 copies a size, -1 is inferred."""
    sizes = _ints(target)
    if not node.get("allowzero", 0):
        sizes = [x.array.shape[i] if item == 0 else item for i, item in enumerate(sizes)]
    return _like(x, x.array.reshape(sizes))


@operator("Flatten", host=True)
def flatten(node: Node, x: Host) -> Host:
    """A matrix: axes before ``axis`` become rows."""
    rows = int(np.prod(x.array.shape[: node.get("axis", 1)], dtype=np.int64))
    return _like(x, x.array.reshape(rows, -1))


@operator("Transpose", host=True)
def transpose(node: Node, x: Host) -> Host:
    """Permute the axes."""
    return _like(x, x.array.transpose(node.get("perm")))


@operator("Expand", since=8, host=True)
def expand(node: Node, x: Host, target: Host) -> Host:
    """Broadcast against a shape."""
    return _like(x, np.broadcast_to(x.array, _allowed(np.broadcast_shapes(x.array.shape, tuple(_ints(target))))))


@operator("Tile", since=6, host=True)
def tile(node: Node, x: Host, repeats: Host) -> Host:
    """Repeat along every axis."""
    counts = _ints(repeats)
    _allowed(tuple(size * count for size, count in zip(x.array.shape, counts, strict=True)))
    return _like(x, np.tile(x.array, counts))


def _allowed(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if np.prod(sizes, dtype=np.float64) > _ITEMS:
        raise Opaque("too large for the host")
    return sizes


@operator("Split", host=True)
def split(node: Node, x: Host, sizes: Host | None = None) -> tuple[Host, ...]:
    """Sizes as attribute or input, or equal parts of which the last may be smaller."""
    axis, total = node.get("axis", 0), x.array.shape[node.get("axis", 0)]
    parts = node.get("split") if sizes is None else _ints(sizes)
    if parts is None:
        count = node.get("num_outputs", len(node.outputs))
        parts = [-(-total // count)] * (count - 1)
        return tuple(_like(x, part) for part in np.split(x.array, np.cumsum(parts), axis))
    if sum(parts) != total:
        raise Opaque("the sizes of a Split do not add up")
    return tuple(_like(x, part) for part in np.split(x.array, np.cumsum(parts)[:-1], axis))


@operator("ConstantOfShape", since=9, host=True)
def constant_of_shape(node: Node, sizes: Host) -> Host:
    """A small array full of one value."""
    fill, dtype = fill_of(node)
    return Host(np.full(_allowed(tuple(_ints(sizes))), fill, dtype=object), dtype)


@operator("Range", since=11, host=True)
def range_(node: Node, start: Host, limit: Host, delta: Host) -> Host:
    """A short range of numbers with bounds that are constant."""
    first, last, step = (concrete(value) for value in (start, limit, delta))
    if first is None or last is None or step is None:
        raise Opaque("the bounds depend on a size")
    count = max(0, int(np.ceil((last.item() - first.item()) / step.item())))
    _allowed((count,))
    return Host(objects((first + np.arange(count) * step).astype(first.dtype).reshape(-1)), start.dtype)


@operator("NonZero", since=9, host=True)
def non_zero(node: Node, x: Host) -> Host:
    """Places of the items that are not zero, known only where all items are numbers."""
    array = concrete(x)
    if array is None:
        raise Opaque("the items depend on a size")
    return Host(objects(np.array(np.nonzero(array), dtype=np.int64)), torch.int64)
