"""What diffusion models may reuse: between steps, and between the guided and the unguided half of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.attention.blocks import repeated


def residual_of(full: Tensor, window: Tensor) -> Tensor:
    """What a window misses, to be cached at one step: full - window (WA-RS of DiTFastAttn, arXiv:2406.08552, eq. 1)."""
    return full - window


def with_residual(window: Tensor, residual: Tensor) -> Tensor:
    """A window at a later step, plus what it missed when that was last computed (DiTFastAttn, equation 2).

    >>> full, window = torch.tensor([3.0]), torch.tensor([1.0])
    >>> with_residual(window, residual_of(full, window)).tolist()
    [3.0]
    """
    return window + residual


def mean_residual(full: Sequence[Tensor], made: Sequence[Tensor], tokens: bool) -> Tensor:
    """What an approximation misses on average over calibration inputs, [H, L or 1, V].

    A graph has no earlier step to cache, so this constant stands for the cache; ``tokens`` keeps one for each position,
    which needs sequences of one length.

    >>> mean_residual([torch.full((2, 1, 3, 4), 5.0)], [torch.ones(2, 1, 3, 4)], tokens=True).shape
    torch.Size([1, 3, 4])
    """
    missing = [(a - b).float().mean(0) for a, b in zip(full, made, strict=True)]
    if tokens:
        return torch.stack(missing).mean(0)
    return torch.stack([item.mean(1, keepdim=True) for item in missing]).mean(0)


def guided_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, *, causal: bool = False,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Attention of the first half of the batch, used for the second half as well (ASC of DiTFastAttn, section 3.3).

    With classifier-free guidance one half of a batch is conditional and the other is not, sample by sample.

    Args:
        query, key, value: [B, H, L, E]; B is even.
        bias: the same for all samples.

    >>> x = torch.randn(2, 1, 3, 4)
    >>> y = guided_attention(x, x, x)
    >>> torch.equal(y[0], y[1])
    True
    """
    half = query.shape[0] // 2
    query, key, value = query[:half], key[:half], value[:half]
    key, value = repeated(key, query.shape[1]), repeated(value, query.shape[1])
    made = F.scaled_dot_product_attention(query, key, value, bias, is_causal=causal, scale=scale)
    return torch.cat([made, made])


def step_change(before: Tensor, now: Tensor) -> Tensor:
    """Share of a head's energy by which its output differs from that of the step before, [H].

    Where it is small, the earlier output can stand for the later one (AST of DiTFastAttn, section 3.2); that takes a
    sampler which keeps it.

    >>> step_change(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4)).tolist()
    [0.0, 0.0]
    """
    gap = (now - before).float().square().sum((0, 2, 3))
    return gap / now.float().square().sum((0, 2, 3)).clamp(min=1e-30)
