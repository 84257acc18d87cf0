"""Attention maps of one layer used in another."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.attention.blocks import hidden, repeated


def attention_map(
    query: Tensor, key: Tensor, mask: Tensor | None = None, *, causal: bool = False, scale: float | None = None
) -> Tensor:
    """softmax(Q K' scale + mask), [B, H, L, S]; a Boolean mask is true where a key is seen.

    >>> attention_map(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 4, 2)).flatten().tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query @ repeated(key, query.shape[1]).mT * scale
    if causal:
        rows, columns = (torch.arange(scores.shape[dim], device=query.device) for dim in (2, 3))
        scores = scores.masked_fill(columns[None] > rows[:, None], hidden(scores.dtype))
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, hidden(scores.dtype))
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(-1)


def shared_attention(weights: Tensor, value: Tensor) -> Tensor:
    """A map [B, H, L, S] applied to values [B, H or fewer, S, V] of another layer (arXiv:1906.11024).

    >>> shared_attention(torch.eye(2)[None, None], torch.tensor([[[[1.0], [2.0]]]])).flatten().tolist()
    [1.0, 2.0]
    """
    return weights @ repeated(value, weights.shape[1])


def map_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean total variation of the rows of two maps, [H]: 0 where they are equal, 1 where they share nothing.

    >>> map_distance(torch.eye(2)[None, None], torch.eye(2).flip(0)[None, None]).tolist()
    [1.0]
    """
    return (first - second).abs().sum(-1).mean((0, 2)) / 2
