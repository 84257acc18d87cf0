"""Blocks of keys chosen at each call by the scores of representatives."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.attention.blocks import cut, hidden, means, repeated
from tersor.attention.gathered import gathered_attention


def select_blocks(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None = None,
    *,
    rows: int,
    block: int,
    keep: int,
    proxies: int = 0,
    causal: bool = False,
) -> Tensor:
    """The ``keep`` blocks of keys whose means score highest with the mean of each block of queries, [B, H, n, keep].

    The mean of a block stands for its keys, as in Mixture of Block Attention (MoBA, arXiv:2502.13189), here without
    training. With ``proxies`` the heads in each of so many groups are averaged first and choose together (ProxyAttn,
    arXiv:2509.24745), which is less work.

    Args:
        query, key: [B, H, L, E], [B, H or fewer, S, E].
        bias: of keys, [B or 1, 1, 1, S].
        causal: choose among blocks that lie before all queries of a block; ceil(S / block) stands for none.

    >>> q, k = torch.tensor([1.0, 0.0]).expand(1, 1, 2, 2), torch.eye(2).reshape(1, 1, 2, 2)
    >>> select_blocks(q, k, rows=2, block=1, keep=1).tolist()
    [[[[0]]]]
    """
    heads = query.shape[1]
    asked, known = means(query, rows), repeated(means(key, block), heads)
    if proxies:
        asked, known = (_grouped(x, proxies) for x in (asked, known))
    scores = asked @ known.mT
    low = hidden(query.dtype)
    if bias is not None:
        scores = scores + cut(bias.mT, block, low).amax(3).mT
    count = scores.shape[3]
    if causal:
        ends = (torch.arange(count, device=query.device) + 1) * block
        past = ends[None] <= torch.arange(scores.shape[2], device=query.device)[:, None] * rows
        scores = torch.where(past, scores, low)
    best = torch.topk(scores, keep, -1)
    index = torch.where(best.values > low / 2, best.indices, count) if causal or bias is not None else best.indices
    return repeated(index, heads)


def _grouped(x: Tensor, groups: int) -> Tensor:
    return x.reshape(x.shape[0], groups, -1, *x.shape[2:]).mean(2)


def selected_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, *, rows: int, block: int, keep: int,
    proxies: int = 0, causal: bool = False, scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Attention over the blocks that `select_blocks` chooses, and where it is causal over a block's own tokens.

    >>> x = torch.randn(1, 2, 6, 4)
    >>> y = selected_attention(x, x, x, rows=2, block=2, keep=3)
    >>> torch.allclose(y, torch.nn.functional.scaled_dot_product_attention(x, x, x), atol=1e-5)
    True
    """
    index = select_blocks(
        query, key, bias, rows=rows, block=block, keep=keep, proxies=proxies, causal=causal
    )  # fmt: skip
    own = (key, value, bias) if causal else None
    return gathered_attention(query, key, value, index, bias, rows=rows, block=block, own=own, scale=scale)
