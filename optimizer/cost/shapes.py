"""Sizes as numbers: what a symbolic shape is in the example inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch


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
