"""Changes of type that leave no trace in the graph where the type is right already."""

from __future__ import annotations

import torch
from torch import Tensor


def as_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in this type; no node where it has it, because torch.export writes a check for a needless cast."""
    return x if x.dtype == dtype else x.to(dtype)


def at_least_single(x: Tensor) -> Tensor:
    """``x`` in single precision, or double where it is double."""
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)
