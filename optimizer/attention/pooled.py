"""Keys and values averaged over neighbouring tokens."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.attention.blocks import cut, hidden


def pooled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    *,
    window: int,
    line: int = 0,
    prefix: int = 0,
    scale: float | None = None,
) -> Tensor:
    """Every query attends to the averages of windows of keys and values: the low-frequency half of HiLo attention.

    HiLo (arXiv:2205.13213) gives it to some heads, and local windows to the others. A window of n keys counts n times
    (proportional attention, arXiv:2210.09461), which matters where windows differ in size; with a bias a key counts
    ``exp(bias)`` times in its window, so that masked ones do not.

    Args:
        query: [B, H, L, E].
        key, value: [B, H or fewer, S, ...].
        bias: of keys, [B or 1, 1, 1, S]; not with ``line``.
        window: consecutive tokens, or side of a square of tokens with ``line``.
        line: length of the lines of a grid of tokens; 0 where there is none.
        prefix: first tokens, such as the class token, that stay as they are.
        scale: of the scores, E^-0.5 by default.

    Returns:
        [B, H, L, V].

    >>> x = torch.ones(1, 1, 4, 2)
    >>> pooled_attention(x, x, x, window=2).shape
    torch.Size([1, 1, 4, 2])
    """
    attend = partial(F.scaled_dot_product_attention, scale=scale, enable_gqa=key.shape[1] != query.shape[1])
    if line:
        keys, values = (_by_squares(x, window, line, prefix) for x in (key, value))
        mask = _log_sizes(query, keys.shape[2], prefix, float(window**2))
        return attend(query, keys, values, mask)
    whole_windows = (key.shape[2] - prefix) % window == 0
    if bias is None and whole_windows:
        keys, values = (_joined(x, x[:, :, prefix:], window, prefix) for x in (key, value))
        mask = _log_sizes(query, keys.shape[2], prefix, float(window))
        return attend(query, keys, values, mask)
    given = query.new_zeros(1, 1, 1, key.shape[2]) if bias is None else bias
    weight = given.mT[:, :, prefix:].exp()
    total = cut(weight, window).sum(3)
    keys, values = (
        torch.cat([x[:, :, :prefix], cut(x[:, :, prefix:] * weight, window).sum(3) / total.clamp(min=1e-6)], 2)
        for x in (key, value)
    )
    sizes = total.log().clamp(min=hidden(query.dtype)).mT
    mask = torch.cat([given[..., :prefix], sizes], -1)
    return attend(query, keys, values, mask)


def _joined(x: Tensor, rest: Tensor, window: int, prefix: int) -> Tensor:
    pooled = rest.reshape(rest.shape[0], rest.shape[1], -1, window, rest.shape[3]).mean(3)
    return torch.cat([x[:, :, :prefix], pooled], 2) if prefix else pooled


def _by_squares(x: Tensor, window: int, line: int, prefix: int) -> Tensor:
    """Means over squares of a grid of tokens."""
    grid = x[:, :, prefix:].reshape(x.shape[0], x.shape[1], -1, window, line // window, window, x.shape[3])
    pooled = grid.mean((3, 5)).flatten(2, 3)
    return torch.cat([x[:, :, :prefix], pooled], 2) if prefix else pooled


def _log_sizes(query: Tensor, count: int, prefix: int, size: float) -> Tensor | None:
    """How often each key counts, as a bias; none where all count alike."""
    if not prefix:
        return None
    sizes = torch.where(torch.arange(count, device=query.device) < prefix, 1.0, size).log().to(query.dtype)
    return sizes.reshape(1, 1, 1, count)
