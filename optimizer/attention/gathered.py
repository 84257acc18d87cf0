"""Block-sparse attention as dense products: each block of queries meets the few blocks of keys named for it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.attention.blocks import cut, hidden, repeated, take


def gathered_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    bias: Tensor | None = None,
    *,
    rows: int,
    block: int,
    own: tuple[Tensor, Tensor, Tensor | None] | None = None,
    scale: float | None = None,
) -> Tensor:
    """Softmax over the named blocks only; the blocks are copied together, so that no score is computed for others.

    Args:
        query: [B, H, L, E].
        key, value: [B, H or fewer, S, ...].
        index: [B or 1, H, L / rows, m] int64, the blocks that a block of queries sees; ceil(S / block) means none.
        bias: of keys, [B or 1, 1, 1, S].
        rows: queries in a block.
        block: keys in a block.
        own: for causal attention keys, values and their bias, of which each block of queries sees its own tokens up to
            itself, besides those that ``index`` names, which must lie before it.
        scale: of the scores, E^-0.5 by default.

    Returns:
        [B, H, L, V].

    >>> x, both = torch.randn(1, 1, 4, 2), torch.tensor([[[[0, 1], [0, 1]]]])
    >>> full = F.scaled_dot_product_attention(x, x, x)
    >>> torch.allclose(gathered_attention(x, x, x, both, rows=2, block=2), full, atol=1e-5)
    True
    """
    length, heads = query.shape[2], query.shape[1]
    asked = cut(query, rows)
    low = hidden(query.dtype)
    keys, values = (_picked(x, index, block) for x in (key, value))
    given = query.new_zeros(1, 1, 1, key.shape[2]) if bias is None else bias
    mask = _picked(given.mT, index, block, low).mT
    if own is not None:
        keys = torch.cat([keys, cut(repeated(own[0], heads), rows)], 3)
        values = torch.cat([values, cut(repeated(own[1], heads), rows)], 3)
        mask = _with_own(mask, own[2], query, rows)
    result = F.scaled_dot_product_attention(
        asked.flatten(1, 2), keys.flatten(1, 2), values.flatten(1, 2), mask.flatten(1, 2), scale=scale
    )
    return result.reshape(query.shape[0], heads, -1, result.shape[-1])[:, :, :length]


def _picked(x: Tensor, index: Tensor, block: int, fill: float = 0.0) -> Tensor:
    """The named blocks of [B, H, S, E] side by side, [B, H, n, m * block, E]; the one after the last is ``fill``."""
    blocks = F.pad(cut(x, block, fill), (0, 0, 0, 0, 0, 1), value=fill).flatten(3, 4)
    found = take(blocks, index)
    return found.reshape(*found.shape[:3], -1, x.shape[3])


def _with_own(mask: Tensor, bias: Tensor | None, query: Tensor, rows: int) -> Tensor:
    """Columns for a block's own tokens, none of which sees a later one."""
    low = hidden(query.dtype)
    place = torch.arange(rows, device=query.device)
    later = torch.where(place[None] > place[:, None], low, 0.0).to(query.dtype)
    near = later.reshape(1, 1, 1, rows, rows)
    if bias is not None:
        near = near + cut(bias.mT, rows).mT
    many = bias is not None and bias.shape[0] != 1
    heads, count = mask.shape[1], mask.shape[2]
    batch = query.shape[0] if many or mask.shape[0] != 1 else 1
    wide = mask.expand(batch, heads, count, rows, mask.shape[4])
    return torch.cat([wide, near.expand(batch, heads, count, rows, rows)], -1)
