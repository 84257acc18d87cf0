"""Averages over tokens that stand for several."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.tokens.axis import Run


def weighted_mean(x: Tensor, size: Tensor, run: Run, keepdim: bool) -> Tensor:
    """The mean of ``x`` over ``run.dim``, each token counted ``size`` [B, K, 1] times, other positions once."""
    weight = size[:, run.start :, 0]
    if run.before:
        weight = torch.cat([torch.ones_like(weight[:, :1]).expand(-1, run.before), weight], dim=1)
    if run.after:
        weight = torch.cat([weight, torch.ones_like(weight[:, :1]).expand(-1, run.after)], dim=1)
    shape = [x.shape[0] if dim == 0 else x.shape[dim] if dim == run.dim else 1 for dim in range(x.dim())]
    whole = weight.sum(1, keepdim=True)
    return (x * (weight / whole).reshape(shape)).sum(run.dim, keepdim=keepdim)
