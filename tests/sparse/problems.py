"""Small pruning problems, and their answers by brute force."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from tersor.sparse.pattern import Pattern, every_choice


def problem(rows: int, inputs: int, samples: int = 400, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A weight, related inputs ``[samples, inputs]``, and their second moments."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, inputs, generator=draw, dtype=torch.float64)
    mixed = torch.eye(inputs, dtype=torch.float64) + 0.4 * torch.randn(inputs, inputs, generator=draw).double()
    x = torch.randn(samples, inputs, generator=draw, dtype=torch.float64) @ mixed
    return weight, x, x.mT @ x / samples


def every_mask(inputs: int, pattern: Pattern) -> Iterator[Tensor]:
    """All masks of one row."""
    for parts in itertools.product(every_choice(pattern), repeat=inputs // pattern.m):
        yield torch.cat(parts)


def mean_square(x: Tensor, weight: Tensor, other: Tensor) -> Tensor:
    """The error of each row on the inputs themselves."""
    return (x @ (weight - other).mT).square().mean(0)


def fitted(x: Tensor, row: Tensor, mask: Tensor, damping: float = 0.0) -> Tensor:
    """The kept weights of one row by torch's least squares; damping as rows of the system that pull to the row."""
    gram = x.mT @ x / len(x)
    pull = (damping * gram.diagonal().mean()).sqrt() * torch.eye(len(row), dtype=torch.float64)
    system = torch.cat([x / len(x) ** 0.5, pull])
    found = torch.zeros_like(row)
    found[mask] = torch.linalg.lstsq(system[:, mask], (system @ row)[:, None]).solution[:, 0]
    return found
