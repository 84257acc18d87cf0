"""Keys reordered so that those which matter lie in few blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.attention.block_select import select_blocks
from tersor.attention.blocks import cut, hidden, means, repeated, take, whole
from tersor.attention.gathered import gathered_attention


def key_order(
    query: Tensor, key: Tensor, bias: Tensor | None = None, *, segment: int, causal: bool = False,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Keys of each segment in the order of the attention they get, [B, H, S / segment, segment] int64.

    Permuted block-sparse attention (PBS-Attn, arXiv:2510.21270): attention does not depend on the order of its keys, so
    they may be sorted; inside segments only, so that a causal mask still falls between segments. Their importance is
    what the last block of queries gives them where it is causal, and the means of all blocks of queries else.

    Args:
        query, key: [B, H, L, E], [B, H or fewer, S, E]; S is filled up to whole segments, the rest comes last.
        bias: of keys, [B or 1, 1, 1, S].

    >>> q, k = torch.ones(1, 1, 1, 1), torch.tensor([0.0, 2.0, 1.0]).reshape(1, 1, 3, 1)
    >>> key_order(q, k, segment=3).flatten().tolist()
    [1, 2, 0]
    """
    asked = query[:, :, -segment:] if causal else means(query, min(segment, 64))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = asked @ repeated(key, query.shape[1]).mT * scale
    scores = scores if bias is None else scores + bias
    weights = scores.softmax(-1).mean(2, keepdim=True)
    inside = cut(weights.mT, segment, -1.0).squeeze(-1)
    return torch.topk(inside, segment, -1).indices


def permuted_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, *, segment: int, block: int, keep: int,
    causal: bool = False, scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Attention over the best blocks of keys sorted by `key_order`; ``segment`` queries choose together.

    Where it is causal, a segment sees its own tokens up to itself in any case. Shapes as in `selected_attention`.

    >>> x = torch.randn(1, 2, 8, 4)
    >>> y = permuted_attention(x, x, x, segment=4, block=2, keep=4)
    >>> torch.allclose(y, torch.nn.functional.scaled_dot_product_attention(x, x, x), atol=1e-5)
    True
    """
    heads, seen = query.shape[1], key.shape[2]
    rows, across = (segment, segment) if causal else (block, whole(seen, block))
    order = key_order(query, key, bias, segment=across, causal=causal, scale=scale)
    keys, values = (_shuffled(x, order, across) for x in (repeated(key, heads), repeated(value, heads)))
    low = hidden(query.dtype)
    known = bias
    if bias is not None or seen % across:
        known = query.new_zeros(1, 1, 1, seen) if bias is None else bias
        known = _shuffled(known.mT, order, across, low).mT
    index = select_blocks(query, keys, known, rows=rows, block=block, keep=keep, causal=causal)
    own = (key, value, bias) if causal else None
    return gathered_attention(query, keys, values, index, known, rows=rows, block=block, own=own, scale=scale)


def _shuffled(x: Tensor, order: Tensor, segment: int, fill: float = 0.0) -> Tensor:
    """[B, H, S, E] with the rows of each segment in another order, filled up to whole segments."""
    parts = cut(x, segment, fill)
    rows = parts.flatten(2, 3)
    start = torch.arange(order.shape[2], device=order.device)[:, None] * segment
    return take(rows, (order + start).reshape(order.shape[0], order.shape[1], 1, -1))[:, :, 0]
