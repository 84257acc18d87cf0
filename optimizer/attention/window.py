"""Sliding windows, dilated windows, and windows with attention sinks, as dense products of neighbouring blocks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.attention.blocks import count_of, cut, hidden, padded, repeated, whole


def window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    *,
    reach: int,
    block: int = 0,
    sinks: int = 0,
    dilation: int = 1,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Each token attends to those at most ``reach`` away (Longformer, arXiv:2004.05150), and to the first ``sinks``.

    Only blocks inside the reach are multiplied: ``reach + block`` keys a row where it is causal, ``2 * reach + block``
    else, instead of L. Attention sinks: the first tokens collect the attention that has nowhere to go (StreamingLLM,
    arXiv:2309.17453). With ``dilation`` d only every d-th token counts, and the reach is d times as far.

    Args:
        query, key: [B, H, L, E]; keys and values may have fewer heads.
        value: [B, H, L, V].
        bias: added to the scores, [B or 1, 1, 1, L], or [B or 1, H or 1, L, L] where nothing is dilated.
        reach: a multiple of ``block``.
        block: rows that are computed together; ``reach`` by default.
        sinks: at most ``block``, not with ``dilation``.
        causal: no token sees a later one.
        scale: of the scores, E^-0.5 by default.

    Returns:
        [B, H, L, V].

    >>> x = torch.randn(1, 2, 7, 4)
    >>> torch.allclose(window_attention(x, x, x, reach=8), F.scaled_dot_product_attention(x, x, x), atol=1e-5)
    True
    """
    key, value = repeated(key, query.shape[1]), repeated(value, query.shape[1])
    if dilation > 1:
        return _dilated(query, key, value, bias, dilation, reach, block, causal, scale)
    block = block or reach
    before, after = reach // block, 0 if causal else reach // block
    length = query.shape[2]
    given = query.new_zeros(1, 1, 1, length) if bias is None else bias
    apart = given.shape[0] != 1 or given.shape[1] != 1
    near = [_neighbours(x, block, before, after) for x in (key, value)]
    mask = _inside(given, query, block, before, after, reach, causal)
    if sinks:
        near = [torch.cat([_first(x, block, sinks, y.shape[2]), y], 3) for x, y in zip((key, value), near, strict=True)]
        mask = torch.cat([_beyond(given, query, block, sinks, reach), mask], -1)
    rows = _folded(cut(query, block), apart)
    if apart:
        mask = mask.expand(query.shape[0], -1, -1, -1, -1)
    result = F.scaled_dot_product_attention(
        rows, _folded(near[0], apart), _folded(near[1], apart), _folded(mask, apart), scale=scale
    )
    return _unfolded(result, query, count_of(length, block), apart)[:, :, :length]


def _neighbours(x: Tensor, block: int, before: int, after: int, value: float = 0.0) -> Tensor:
    """For each block of [B, H, L, E] itself and those around it: [B, H, n, (before + 1 + after) * block, E]."""
    length = x.shape[2]
    count = count_of(length, block)
    x = padded(x, before * block, count * block - length + after * block, value)
    blocks = x.reshape(x.shape[0], x.shape[1], before + count + after, block, x.shape[3])
    return torch.cat([blocks[:, :, place : place + count] for place in range(before + 1 + after)], 3)


def _inside(bias: Tensor, query: Tensor, block: int, before: int, after: int, reach: int, causal: bool) -> Tensor:
    """What is added to the scores of a window, [B or 1, H or 1, n, block, keys]."""
    low = hidden(query.dtype)
    ahead = torch.arange((before + 1 + after) * block, device=query.device) - before * block
    ahead = ahead - torch.arange(block, device=query.device)[:, None]
    seen = (ahead >= -reach) & (ahead <= (0 if causal else reach))
    band = torch.where(seen, 0.0, low).to(query.dtype)
    if bias.shape[2] == 1:
        return _neighbours(bias.mT, block, before, after, low).mT + band
    rows = cut(bias, block)
    length = whole(bias.shape[3], block)
    wide = F.pad(rows, (before * block, length - bias.shape[3] + after * block), value=low)
    size = len(band[0])
    columns = [wide[:, :, place, :, place * block : place * block + size] for place in range(length // block)]
    return torch.stack(columns, 2) + band


def _first(x: Tensor, block: int, sinks: int, count: int, value: float = 0.0) -> Tensor:
    """The first positions of [B, H, L, E], the same for all blocks; filled up where there are fewer."""
    return cut(x, block, value)[:, :, :1, :sinks].expand(-1, -1, count, -1, -1)


def _beyond(bias: Tensor, query: Tensor, block: int, sinks: int, reach: int) -> Tensor:
    """What is added to the scores of the sinks: they are seen where no window shows them, [.., n, block, sinks]."""
    low, count = hidden(query.dtype), count_of(query.shape[2], block)
    ahead = torch.arange(count * block, device=query.device)[:, None] - torch.arange(sinks, device=query.device)
    mask = torch.where(ahead > reach, 0.0, low).to(query.dtype).reshape(1, 1, count, block, sinks)
    if bias.shape[2] == 1:
        return mask + _first(bias.mT, block, sinks, count, low).mT
    return mask + cut(bias[..., :sinks], block)


def _folded(x: Tensor, apart: bool) -> Tensor:
    """[B, H, n, rows, E] with four axes: blocks with the batch, or in front, where all samples share a mask."""
    return x.transpose(1, 2).flatten(0, 1) if apart else x.permute(2, 0, 1, 3, 4).flatten(1, 2)


def _unfolded(x: Tensor, query: Tensor, count: int, apart: bool) -> Tensor:
    """Back to [B, H, L, V]."""
    batch, heads = query.shape[:2]
    if apart:
        x = x.reshape(batch, count, *x.shape[1:]).transpose(1, 2)
    else:
        x = x.reshape(count, batch, heads, *x.shape[2:]).permute(1, 2, 0, 3, 4)
    return x.flatten(2, 3)


def _dilated(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, step: int, reach: int, block: int, causal: bool,
    scale: float | None,
) -> Tensor:  # fmt: skip
    """Every ``step``-th token is a sequence of its own, with a plain window."""
    batch, length = query.shape[0], query.shape[2]
    total = whole(length, step)
    if bias is None and total != length:
        bias = query.new_zeros(1, 1, 1, length)
    if bias is not None:
        bias = padded(bias.mT, 0, total - length, hidden(query.dtype)).expand(batch, -1, -1, -1)
        bias = _strided(bias, step).mT
    query, key, value = (_strided(padded(x, 0, total - length), step) for x in (query, key, value))
    result = window_attention(query, key, value, bias, reach=reach, block=block, causal=causal, scale=scale)
    return result.reshape(step, batch, *result.shape[1:]).permute(1, 2, 3, 0, 4).flatten(2, 3)[:, :, :length]


def _strided(x: Tensor, step: int) -> Tensor:
    """[B, H, L, E] as [step * B, H, L / step, E]."""
    return cut(x, step).permute(3, 0, 1, 2, 4).flatten(0, 1)
