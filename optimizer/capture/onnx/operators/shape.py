"""Operators that read or change a tensor's shape and keep its items in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Host, Value, host, numbers


@operator("Shape")
def shape(node: Node, x: torch.Tensor) -> Host:
    """Sizes of ``x`` from ``start`` up to ``end`` (opset 15), kept on the host."""
    return host(_items(x.shape[slice(node.get("start", 0), node.get("end"))]))


@operator("Size")
def size(node: Node, x: torch.Tensor) -> Host:
    """Number of items, kept on the host."""
    return host(_items([x.numel()])[0:1].reshape(()))


def _items(sizes: Sequence[Any]) -> Any:
    array = host([0] * len(sizes)).array
    array[:] = list(sizes)
    return array


@operator("Reshape")
def reshape_attribute(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Opset 1: the shape is an attribute."""
    return x.reshape(_target(x, node.get("shape", []), keep_zero=False))


@operator("Reshape", since=5, static=(1,))
def reshape(node: Node, x: torch.Tensor, target: Value) -> torch.Tensor:
    """0 copies a size of ``x`` (unless ``allowzero``, opset 14), -1 is inferred."""
    return x.reshape(_target(x, numbers(target, "the shape of a Reshape"), keep_zero=bool(node.get("allowzero", 0))))


def _target(x: torch.Tensor, items: Sequence[Any], *, keep_zero: bool) -> list[Any]:
    copied = [i for i, item in enumerate(items) if isinstance(item, int) and item == 0 and not keep_zero]
    return [x.shape[i] if i in copied else item for i, item in enumerate(items)]


@operator("Squeeze")
def squeeze_attribute(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Until opset 12 the axes are an attribute."""
    return _squeeze(x, node.get("axes"))


@operator("Squeeze", since=13, static=(1,))
def squeeze(node: Node, x: torch.Tensor, axes: Value | None = None) -> torch.Tensor:
    """Remove axes of size 1: those given, or all."""
    return _squeeze(x, None if axes is None else numbers(axes, "the axes of a Squeeze"))


def _squeeze(x: torch.Tensor, axes: Sequence[int] | None) -> torch.Tensor:
    if axes is None:
        return x.squeeze()
    result = x.squeeze(tuple(axes))
    if result.dim() != x.dim() - len(set(axes)):
        raise ValueError(f"axes {list(axes)} of shape {list(x.shape)} are not all of size 1")
    return result


@operator("Unsqueeze")
def unsqueeze_attribute(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Until opset 12 the axes are an attribute."""
    return _unsqueeze(x, node.get("axes", []))


@operator("Unsqueeze", since=13, static=(1,))
def unsqueeze(node: Node, x: torch.Tensor, axes: Value) -> torch.Tensor:
    """Insert axes of size 1 at these positions of the result."""
    return _unsqueeze(x, numbers(axes, "the axes of an Unsqueeze"))


def _unsqueeze(x: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Flatten")
def flatten(node: Node, x: torch.Tensor) -> torch.Tensor:
    """A matrix: axes before ``axis`` become rows, the others columns."""
    axis = node.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 1 and x.dim() > 1:
        return x.flatten(1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Expand", since=8, static=(1,))
def expand(node: Node, x: torch.Tensor, target: Value) -> torch.Tensor:
    """Broadcast ``x`` and an array of this shape against each other."""
    sizes = numbers(target, "the shape of an Expand")
    missing = len(sizes) - x.dim()
    kept = [-1 if i >= missing and isinstance(item, int) and item == 1 else item for i, item in enumerate(sizes)]
    return x.expand([-1] * -missing + kept)


@operator("Tile", static=(1, 2))
def tile_once(node: Node, x: torch.Tensor, tiles: Value, axis: Value) -> torch.Tensor:
    """Opset 1: repeat along one axis."""
    repeats = [1] * x.dim()
    repeats[int(numbers(axis, "the axis of a Tile")[0])] = int(numbers(tiles, "the repeats of a Tile")[0])
    return x.repeat(repeats)


@operator("Tile", since=6, static=(1,))
def tile(node: Node, x: torch.Tensor, repeats: Value) -> torch.Tensor:
    """Repeat along every axis."""
    return x.repeat(numbers(repeats, "the repeats of a Tile"))
