"""Attention whose weights are products of features: linear in the number of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.attention.blocks import cut


def linear_attention(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False, chunk: int = 64, floor: float = 1e-6
) -> Tensor:  # fmt: skip
    """``sum_j (q_i . k_j) v_j / sum_j (q_i . k_j)`` with features in place of queries and keys (arXiv:2006.16236).

    Where it is causal, sums are carried from chunk to chunk, and inside a chunk products are masked.

    Args:
        query, key: features [B, H, L, F] and [B, H, S, F], none negative.
        value: [B, H, S, V].
        causal: needs L = S.
        chunk: tokens whose products with each other are computed.
        floor: least denominator.

    Returns:
        [B, H, L, V].

    >>> x = torch.rand(1, 1, 5, 3)
    >>> whole = linear_attention(x, x, x)
    >>> torch.allclose(linear_attention(x, x, x, causal=True, chunk=2)[:, :, -1], whole[:, :, -1], atol=1e-6)
    True
    """
    counted = torch.cat([value, torch.ones_like(value[..., :1])], -1)
    sums = _causal(query, key, counted, chunk) if causal else query @ (key.mT @ counted)
    return sums[..., :-1] / sums[..., -1:].clamp(min=floor)


def _causal(query: Tensor, key: Tensor, value: Tensor, chunk: int) -> Tensor:
    length = query.shape[2]
    queries, keys, values = (cut(x, chunk) for x in (query, key, value))
    products = keys.mT @ values
    before = products.cumsum(2) - products
    place = torch.arange(chunk, device=query.device)
    seen = (place[None] <= place[:, None]).to(query.dtype)
    sums = (queries @ keys.mT * seen) @ values + queries @ before
    return sums.flatten(2, 3)[:, :, :length]
