"""Positive random features of the softmax kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tersor.attention.blocks import repeated
from tersor.attention.linear import linear_attention


def projection(width: int, count: int, generator: torch.Generator) -> Tensor:
    """Gaussian directions, orthogonal in blocks of ``width``, [count, width] (FAVOR+, arXiv:2009.14794, section 2.4).

    >>> w = projection(4, 4, torch.Generator().manual_seed(0))
    >>> off = w @ w.T - torch.diag((w @ w.T).diagonal())
    >>> bool(off.abs().max() < 1e-4)
    True
    """
    blocks = []
    for _ in range(math.ceil(count / width)):
        turned, triangle = torch.linalg.qr(torch.randn(width, width, generator=generator))
        # Householder's factors have a fixed sign in each column; without it directions are uniform (Mezzadri, 2007).
        blocks.append((turned * triangle.diagonal().sign()).T)
    norms = torch.randn(count, width, generator=generator).norm(dim=1, keepdim=True)
    return torch.cat(blocks)[:count] * norms


def positive_features(x: Tensor, directions: Tensor, rows: bool) -> Tensor:
    """exp(w . x - |x|^2 / 2) of each direction w, [..., F]; products of two estimate exp(x . y).

    Divided by the largest of each row where ``rows``, of each head else: softmax does not change by either.
    """
    found = x @ directions.T
    if rows:
        return (found - found.amax(-1, keepdim=True)).exp()
    found = found - x.square().sum(-1, keepdim=True) / 2
    return (found - found.amax((-1, -2), keepdim=True)).exp()


def random_feature_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    *,
    directions: Tensor,
    causal: bool = False,
    scale: float | None = None,
    chunk: int = 64,
) -> Tensor:
    """Softmax attention estimated by positive orthogonal random features (Performer, arXiv:2009.14794).

    Args:
        query, key: [B, H, L, E], [B, H or fewer, S, E].
        value: [B, H or fewer, S, V].
        bias: of keys, [B or 1, 1, 1, S]; exact, as exp(bias) times their features.
        directions: [F, E], see `projection`.

    Returns:
        [B, H, L, V].
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    root = math.sqrt(scale)
    asked = positive_features(query * root, directions, rows=True)
    known = positive_features(key * root, directions, rows=False)
    known = known if bias is None else known * bias.mT.exp()
    heads = query.shape[1]
    # The smallest denominator that is taken for one: features are at most 1 each.
    return linear_attention(
        asked, repeated(known, heads), repeated(value, heads), causal=causal, chunk=chunk, floor=1e-9
    )  # fmt: skip
