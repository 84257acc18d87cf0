"""A dense convolution as depthwise filters and a pointwise mix (network decoupling, Guo et al., arXiv:1808.05517)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.factor.gradients import Metric


@dataclass(frozen=True)
class Separated:
    """``weight[o, i, :] = sum over t of pointwise[o, i, t] depthwise[i, t, :]``.

    Attributes:
        depthwise: (in * terms, 1, *kernel), for ``groups=in``.
        pointwise: (out, in * terms).
    """

    depthwise: Tensor
    pointwise: Tensor


def channel_roots(patches: Tensor | None, inputs: int, taps: int) -> Tensor:
    """(in, taps, taps) lower triangular roots of each channel's patch moments; identities where nothing was seen."""
    unit = torch.eye(taps, dtype=torch.float64).expand(inputs, taps, taps)
    if patches is None or not bool(patches.isfinite().all()):
        return unit
    level = patches.diagonal(dim1=1, dim2=2).mean()
    lower, failed = torch.linalg.cholesky_ex(patches + 1e-4 * level * unit)
    return unit if bool(failed.any()) or not bool(level > 0) else lower


def patch_moments(columns: Tensor) -> Tensor:
    """(in, taps, taps) average outer product of each channel's patches, from (batch, in, taps, positions)."""
    made = sum(torch.einsum("ctp,csp->cts", item, item).double() for item in columns)
    assert isinstance(made, Tensor)
    return made / (columns.shape[0] * columns.shape[-1])


def spectrum(weight: Tensor, roots: Tensor, metric: Metric) -> Tensor:
    """(terms,) error made by leaving out the t-th term of every channel, strongest first."""
    return torch.linalg.svdvals(_seen(weight, roots, metric)).square().sum(0)


def separate(weight: Tensor, roots: Tensor, metric: Metric, terms: int) -> Separated:
    """Best ``terms`` depthwise filters per input channel, by a singular value decomposition of each channel's filters.

    Args:
        weight: (out, in, *kernel).
        roots: (in, taps, taps), see `channel_roots`; identities approximate the weight itself.
        metric: which errors of the outputs matter.
        terms: filters per channel; as many as taps (or outputs, if fewer) are exact.

    >>> from tersor.factor.gradients import flat_metric
    >>> weight = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    >>> made = separate(weight, channel_roots(None, 3, 4), flat_metric(4), 4)
    >>> back = torch.einsum("oit,itk->oik", made.pointwise.unflatten(1, (3, 4)), made.depthwise.reshape(3, 4, 4))
    >>> torch.allclose(back, weight.flatten(2))
    True
    """
    left, values, right = torch.linalg.svd(_seen(weight, roots, metric), full_matrices=False)
    filters = torch.linalg.solve_triangular(roots, right[:, :terms], upper=False, left=False)
    scale = filters.norm(dim=-1).clamp(min=1e-300)
    mix = left[:, :, :terms] * (values[:, :terms] * scale)[:, None]
    depthwise = (filters / scale[..., None]).reshape(-1, 1, *weight.shape[2:])
    return Separated(depthwise, metric.out_of(mix.movedim(1, 0).flatten(1)))


def _seen(weight: Tensor, roots: Tensor, metric: Metric) -> Tensor:
    """(in, out, taps): each channel's filters under white patches, with all errors alike."""
    flat = metric.into(weight.double().flatten(1)).reshape(*weight.shape[:2], -1)
    return flat.movedim(1, 0) @ roots
