"""Sizes as numbers: what a symbolic shape is in the example inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx


def hints(shape: Iterable[int | torch.SymInt]) -> tuple[int, ...] | None:
    """Each size in the example inputs; None where one depends on data.

    >>> hints((2, 3))
    (2, 3)
    """
    known = [hint(size) for size in shape]
    sizes = tuple(size for size in known if size is not None)
    return sizes if len(sizes) == len(known) else None


def hint(size: int | torch.SymInt) -> int | None:
    """One size in the example inputs; None where it depends on data."""
    if isinstance(size, int):
        return size
    node = size.node
    return int(node.hint) if node.has_hint() else None


def numel(tensor: torch.Tensor) -> int | None:
    """Elements of a tensor in the example inputs; None where that depends on data."""
    sizes = hints(tensor.shape)
    return None if sizes is None else math.prod(sizes)


def shape_of(node: Any) -> tuple[int, ...]:
    """Sizes of a node's value, of its first where it has several; empty where there is none or one depends on data."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    first = value[0] if isinstance(value, list | tuple) and value else value
    return (hints(first.shape) or ()) if isinstance(first, torch.Tensor) else ()


def stored_elements(value: Any) -> float:
    """Elements of memory: broadcast dimensions count once; 0 where a size depends on data."""
    if isinstance(value, list | tuple):
        return sum(stored_elements(item) for item in value)
    if not isinstance(value, torch.Tensor):
        return 0.0
    sizes = hints(value.shape)
    if sizes is None:
        return 0.0
    strides = value.stride()
    return float(math.prod(n for n, step in zip(sizes, strides, strict=True) if isinstance(step, torch.SymInt) or step))
