"""Weights of layers as matrices whose rows are what an N:M pattern runs along, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.sparse.pattern import Pattern


def as_matrix(weight: Tensor) -> Tensor:
    """``[out, in, *kernel]`` as ``[out, points * in]``, the inputs of one point of the kernel side by side.

    Sparse kernels want n of m channels at the same point (TensorRT developer guide, "Sparsity").

    >>> as_matrix(torch.arange(4).reshape(1, 2, 2)).tolist()
    [[0, 2, 1, 3]]
    """
    return weight.flatten(2).mT.flatten(1) if weight.dim() > 2 else weight


def as_weight(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """A matrix that `as_matrix` made, changed or not, in the shape of the weight."""
    if len(shape) == 2:
        return matrix
    return matrix.unflatten(1, (-1, shape[1])).mT.reshape(*shape)


def as_moments(gram: Tensor, shape: Sequence[int]) -> Tensor:
    """Second moments of patches, laid out as the weight (`tersor.calibrate`), in the order of `as_matrix`.

    Args:
        gram: ``[in * points, in * points]``.
        shape: of the weight, or of one group's.
    """
    inputs, points = shape[1], math.prod(shape[2:])
    if gram.shape != (inputs * points,) * 2:
        raise UsageError(f"second moments {tuple(gram.shape)} for a weight {tuple(shape)}", "those of its patches")
    order = torch.arange(inputs * points, device=gram.device).view(inputs, points).mT.flatten()
    return gram[order[:, None], order]


def slices(weight: Tensor, dim: int, owners: Tensor, size: int, pattern: Pattern) -> list[Tensor]:
    """The parts of a weight that one axis orders, as matrices ``[rest, size]`` for `tersor.sparse.permute.search`.

    Args:
        weight: of a layer that sums over ``dim``.
        dim: the dimension.
        owners: the index of the axis that each place belongs to, -1 where none, `tersor.axes.select.owners`.
        size: of the axis.
        pattern: whose blocks the parts have to begin with.

    Returns:
        One for each time that the axis runs through in order; none where another order of it would not move whole
        columns within such runs, so that searching is of no use.
    """
    flat = weight.movedim(dim, -1).flatten(0, -2)
    starts = (owners == 0).nonzero().flatten().tolist()
    run = torch.arange(size, device=owners.device)
    whole = all(start % pattern.m == 0 and torch.equal(owners[start : start + size], run) for start in starts)
    if size % pattern.m or not whole or len(starts) * size != int((owners >= 0).sum()):
        return []
    return [flat[:, start : start + size] for start in starts]
