"""Attention estimated from a sample of the keys, those with the largest part in it taken whole."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.attention.blocks import means, repeated, take


def sampled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    *,
    heavy: int,
    samples: int,
    rows: int = 32,
    scale: float | None = None,
) -> Tensor:
    """Heavy keys exactly, and of the others one in each stratum, counted as often as the stratum has keys.

    The sums over keys in numerator and denominator of softmax are kernel density estimates (KDEformer,
    arXiv:2302.02451; heavy entries apart as in HyperAttention, arXiv:2310.05869). Here keys are sorted by the attention
    that the means of blocks of queries give them, and the sample is systematic: the middle of each of ``samples`` runs
    of that order. All queries share it, so that what is left is a small dense attention.

    Args:
        query: [B, H, L, E].
        key, value: [B, H or fewer, S, ...].
        bias: of keys, [B or 1, 1, 1, S].
        heavy: keys that are taken whole.
        samples: strata of the rest.
        rows: queries averaged to find the order.
        scale: of the scores, E^-0.5 by default.

    Returns:
        [B, H, L, V].

    >>> x = torch.randn(1, 1, 6, 4)
    >>> full = F.scaled_dot_product_attention(x, x, x)
    >>> torch.allclose(sampled_attention(x, x, x, heavy=2, samples=4), full, atol=1e-5)
    True
    """
    heads, seen = query.shape[1], key.shape[2]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    key, value = repeated(key, heads), repeated(value, heads)
    scores = means(query, rows) @ key.mT * scale
    scores = scores if bias is None else scores + bias
    order = torch.topk(scores.softmax(-1).mean(2), seen, -1).indices
    places, counts = strata(seen, heavy, samples)
    index = order[..., torch.tensor(places, device=key.device)][:, :, None]
    mask = torch.tensor(counts, dtype=query.dtype, device=key.device).log().reshape(1, 1, 1, -1)
    if bias is not None:
        mask = mask + take(bias.mT, index)[:, :, 0].mT
    return F.scaled_dot_product_attention(
        query, take(key, index)[:, :, 0], take(value, index)[:, :, 0], mask, scale=scale
    )


def strata(total: int, heavy: int, samples: int) -> tuple[list[int], list[int]]:
    """(places in the order of importance, how many keys each stands for).

    >>> strata(9, 1, 3)
    ([0, 2, 4, 7], [1, 2, 3, 3])
    """
    rest = total - heavy
    samples = min(samples, rest)
    runs = list(pairwise(heavy + rest * part // samples for part in range(samples + 1))) if samples else []
    places = [*range(heavy), *((start + end) // 2 for start, end in runs)]
    return places, [1] * heavy + [end - start for start, end in runs]
