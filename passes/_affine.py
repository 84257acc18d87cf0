"""Constant scales and shifts in a graph: arithmetic with constants, and batch norm in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tersor.passes._norms import batch_norm_arguments
from tersor.rewrite import Match
from tersor.rewrite_values import arguments, fake, key, positional, scalar, tensor


@dataclass(frozen=True)
class Affine:
    """``scale * x + shift`` in float64, both of the rank of x, with size 1 on axes that they do not depend on."""

    source: Any
    scale: Tensor | None = None
    shift: Tensor | None = None

    def then(self, order: Sequence[int]) -> Affine:
        """The same on x with its axes in another order."""
        moved = [None if part is None else part.permute(list(order)) for part in (self.scale, self.shift)]
        return Affine(self.source, moved[0], moved[1])

    def along(self, axis: int, size: int) -> tuple[Tensor | None, Tensor | None] | None:
        """Scale and shift as vectors along one axis; None where they depend on another axis."""
        parts: list[Tensor | None] = []
        for part in (self.scale, self.shift):
            if part is None:
                parts.append(None)
                continue
            if any(n != 1 for i, n in enumerate(part.shape) if i != axis) or part.shape[axis] not in (1, size):
                return None
            parts.append(part.reshape(-1).expand(size))
        return parts[0], parts[1]

    def is_finite(self) -> bool:
        """Whether neither part holds an infinity or NaN."""
        return all(bool(part.isfinite().all()) for part in (self.scale, self.shift) if part is not None)


def affine_of(match: Match, node: Any) -> Affine | None:
    """What a product, quotient, sum or difference with a constant computes; None for other nodes."""
    name = key(node)
    out = tensor(node)
    if out is None or not out.dtype.is_floating_point:
        return None
    if name in ("batch_norm", "getitem"):
        return batch_norm_affine(match, node)
    if name not in ("mul", "div", "add", "sub", "rsub", "neg"):
        return None
    if name == "neg":
        return Affine(positional(node)[0], torch.full([1] * out.dim(), -1.0, dtype=torch.float64))
    first, second, *rest = arguments(node).values()
    if any(item not in (None, 1) for item in rest):
        return None
    constant = _constant(match, second, out)
    if constant is not None:
        return _arithmetic(name, first, constant, out)
    constant = _constant(match, first, out)
    if constant is None:
        return None
    return _arithmetic({"sub": "rsub", "div": ""}.get(name, name), second, constant, out)


def _arithmetic(name: str, x: Any, constant: Tensor, out: Tensor) -> Affine | None:
    found = tensor(x)
    if found is None or found.dtype != out.dtype or found.dim() != out.dim():
        return None
    minus = torch.full([1] * out.dim(), -1.0, dtype=torch.float64)
    parts: dict[str, tuple[Tensor | None, Tensor | None]] = {
        "mul": (constant, None),
        "div": (1 / constant, None),
        "add": (None, constant),
        "sub": (None, -constant),
        "rsub": (minus, constant),
    }
    return Affine(x, *parts[name]) if name in parts else None


def _constant(match: Match, item: Any, out: Tensor) -> Tensor | None:
    weight = match.weight(item)
    if weight is None:
        number = scalar(match.program, item)
        return None if number is None else torch.full([1] * out.dim(), float(number), dtype=torch.float64)
    if weight.dtype != out.dtype or weight.dim() > out.dim():
        return None
    return weight.detach().double().reshape([1] * (out.dim() - weight.dim()) + list(weight.shape))


def batch_norm_affine(match: Match, node: fx.Node) -> Affine | None:
    """The scale and shift that a batch norm in evaluation applies to axis 1."""
    given = batch_norm_arguments(node)
    if given is None:
        return None
    x, weight, bias, mean, variance, _, _, eps, _ = given
    tensors = [match.weight(item) for item in (weight, bias, mean, variance)]
    if tensors[2] is None or tensors[3] is None or tensor(x) is None:
        return None
    if any(
        found is None and item is not None for found, item in zip(tensors, (weight, bias, mean, variance), strict=True)
    ):
        return None
    gamma, beta, average, spread = (None if found is None else found.double() for found in tensors)
    assert average is not None and spread is not None
    scale = torch.rsqrt(spread + eps) if gamma is None else gamma * torch.rsqrt(spread + eps)
    shift = -average * scale if beta is None else beta - average * scale
    shape = [1, -1] + [1] * (fake(x).dim() - 2)
    return Affine(x, scale.reshape(shape), shift.reshape(shape))
