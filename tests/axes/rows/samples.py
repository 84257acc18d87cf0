"""Operands of the sample calls: float64, so that only real differences are larger than rounding."""

from __future__ import annotations

import torch
from torch import Tensor

_GENERATOR = torch.Generator().manual_seed(0)


def r(*shape: int) -> Tensor:
    """Normal values."""
    return torch.randn(shape, dtype=torch.float64, generator=_GENERATOR)


def p(*shape: int) -> Tensor:
    """Values in [0.1, 1.1)."""
    return torch.rand(shape, dtype=torch.float64, generator=_GENERATOR) + 0.1


def i(high: int, *shape: int) -> Tensor:
    """Integers below ``high``."""
    return torch.randint(high, shape, generator=_GENERATOR)


def b(*shape: int) -> Tensor:
    """Truth values."""
    return torch.rand(shape, generator=_GENERATOR) < 0.5
