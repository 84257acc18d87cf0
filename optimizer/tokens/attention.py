"""Attention weights as what tokens are worth: of the class token, of all tokens, and after walking on the graph."""

from __future__ import annotations

import torch
from torch import Tensor


def probabilities(
    query: Tensor, key: Tensor, scale: float, bias: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """Attention weights [B, H, Q, K] of queries [B, H, Q, D] over keys [B, H or fewer, K, D].

    Args:
        scale: of the scores.
        bias: added to the scores, or Boolean: True where a key is seen.
        is_causal: a query sees the keys up to its own position, and there is no bias.
    """
    bias = causal(query, key) if is_causal else bias
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key = key.repeat_interleave(repeats, dim=1)
    scores = query @ key.transpose(-2, -1) * scale
    if bias is not None and bias.dtype == torch.bool:
        scores = scores.masked_fill(~bias, torch.finfo(scores.dtype).min)
    elif bias is not None:
        scores = scores + bias
    return scores.softmax(-1)


def causal(query: Tensor, key: Tensor) -> Tensor:
    """[1, 1, Q, K] Boolean: a query sees the keys up to its own position."""
    rows, columns = (torch.arange(item.shape[-2], device=item.device) for item in (query, key))
    return (columns[None, :] <= rows[:, None])[None, None]


def of_first(query: Tensor, key: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """Weights [B, H, 1, K] of the first token, such as a class token (EViT, arXiv:2202.07800, equation 3)."""
    row = bias if bias is None or bias.shape[-2] == 1 else bias[..., :1, :]
    return probabilities(query[:, :, :1], key, scale, row)


def of_last(query: Tensor, key: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """Weights [B, H, 1, K] of the last token, which causal attention shows all (FastV, arXiv:2403.06764)."""
    row = bias if bias is None or bias.shape[-2] == 1 else bias[..., -1:, :]
    return probabilities(query[:, :, -1:], key, scale, row)


def received(weights: Tensor) -> Tensor:
    """What each token gets on average, [B, K], of weights [B, H, Q, K] (LTP, arXiv:2107.00910, equation 3)."""
    return weights.mean((1, 2))


def page_rank(weights: Tensor, steps: int = 5) -> Tensor:
    """Importance [B, K] by weighted page rank on the attention graph (Zero-TPrune, arXiv:2305.17328).

    In each head a signal that starts even walks ``steps`` times over the edges, ``s <- A^T s`` (algorithm 1); heads are
    joined by their root mean square, which lets those speak that see a few tokens clearly (equation 5).

    Args:
        weights: [B, H, T, T], rows sum to 1.

    >>> weights = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    >>> page_rank(weights).tolist()
    [[0.0, 1.0]]
    """
    signal = weights.mean(-2, keepdim=True)
    for _ in range(steps - 1):
        signal = signal @ weights
    return signal[:, :, 0].square().mean(1).sqrt()
