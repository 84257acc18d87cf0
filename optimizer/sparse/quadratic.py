"""The quadratic model of a layer: what changed weights cost, given the second moments of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.importance.surgery import damped

_DEAD = 1e-9
"""Second moment of an input that is never active, relative to the mean: enough to divide by."""


def moments(weight: Tensor, gram: Tensor, damping: float) -> Tensor:
    """Second moments ``[in, in]`` of the inputs of a weight ``[out, in]``, checked, symmetric, damped, in float64.

    An input that is never active costs next to nothing, damped or not, so its weights are the first to go.

    Args:
        weight: of the layer; the moments are put on its device.
        gram: E[x x^T], or any multiple of it.
        damping: added to the diagonal, relative to its mean; a moment matrix of few samples is singular without.

    Raises:
        UsageError: shapes do not belong together, something is not finite, or damping is negative.
    """
    if weight.dim() != 2 or gram.shape != (weight.shape[1], weight.shape[1]):
        raise UsageError(
            f"a weight {tuple(weight.shape)} with second moments {tuple(gram.shape)}", "[out, in] and [in, in]"
        )
    if not bool(weight.isfinite().all()) or not bool(gram.isfinite().all()):
        raise UsageError("the weight or the moments of its inputs are not finite", "check the model and calibration")
    if not damping >= 0:
        raise UsageError(f"damping is {damping}", "0 or more, such as 0.01")
    gram = gram.to(weight.device, torch.float64)
    dead = gram.diagonal() == 0
    second = damped((gram + gram.mT) / 2, damping).masked_fill(dead | dead[:, None], 0)
    return second + torch.diag(dead * (_DEAD * gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)))


def inverse(second: Tensor) -> Tensor:
    """The inverse of second moments; raises UsageError where they are singular."""
    return torch.cholesky_inverse(factor(second))


def factor(second: Tensor) -> Tensor:
    """The lower Cholesky factor of second moments ``[..., m, m]``; raises UsageError where they are singular."""
    found, failed = torch.linalg.cholesky_ex(second)
    if bool(failed.any()):
        raise UsageError("the second moments of the inputs are singular", "more calibration data, or more damping")
    return found
