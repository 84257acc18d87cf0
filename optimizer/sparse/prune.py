"""One layer pruned to an N:M pattern: the methods by name, and what each costs the layer's outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.factor.least_squares import residual
from tersor.sparse import masks
from tersor.sparse.icbs import refine
from tersor.sparse.pattern import Pattern
from tersor.sparse.sparsegpt import sparsegpt

METHODS = ("sparsegpt", "wanda", "magnitude")
"""Ways to choose what stays; the first also changes it."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """A matrix after pruning.

    Attributes:
        weight: ``[out, in]``, zero where the mask is False.
        mask: bool ``[out, in]``.
        lost: share of the outputs' energy on the calibration data that the change takes.
    """

    weight: Tensor
    mask: Tensor
    lost: float


@torch.no_grad()
def prune(weight: Tensor, gram: Tensor, pattern: Pattern, method: str = "sparsegpt", sweeps: int = 2) -> Pruned:
    """Prune one layer.

    "magnitude" (arXiv:2104.08378) and "wanda" (arXiv:2306.11695) keep weights as they are. "sparsegpt"
    (arXiv:2301.00774) lets them make up for those that are gone; ``sweeps`` of block coordinate descent (iCBS,
    arXiv:2411.17796) then improve masks, and the values on them by least squares.

    Args:
        weight: ``[out, in]``; computed in float64.
        gram: second moments of the inputs or a multiple, ``[in, in]``.
        pattern: to follow.
        method: one of `METHODS`.
        sweeps: after "sparsegpt"; 0 for none.

    Raises:
        UsageError: an unknown method; shapes do not fit; something is not finite.

    >>> made = prune(torch.tensor([[1.0, 4.0, 2.0, 3.0]]), torch.eye(4), Pattern(2, 4), "magnitude")
    >>> made.weight.tolist(), round(made.lost, 3)
    ([[0.0, 4.0, 0.0, 3.0]], 0.167)
    """
    real, second = weight.double(), gram.double()
    if method == "magnitude":
        mask = masks.magnitude(real, pattern)
        made = real * mask
    elif method == "wanda":
        mask = masks.wanda(real, second.diagonal().clamp_min(0).sqrt(), pattern)
        made = real * mask
    elif method == "sparsegpt":
        found = sparsegpt(real, second, pattern)
        mask, made = found.mask, found.weight
        if sweeps:
            refined = refine(real, mask, second, pattern, start=made, sweeps=sweeps)
            mask, made = refined.mask, refined.weight
    else:
        raise UsageError(f"method is {method!r}", f"one of {', '.join(METHODS)}")
    energy = float(((real @ second) * real).sum())
    return Pruned(made.to(weight.dtype), mask, float(residual(real, made, second).sum()) / max(energy, 1e-300))
