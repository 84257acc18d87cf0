"""Feature maps learned without labels, so that linear attention gives what softmax attention gave."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tersor.attention.blocks import repeated
from tersor.attention.linear import linear_attention


def features(x: Tensor, weight: Tensor) -> Tensor:
    """softmax(x W) and softmax(-x W) side by side: Hedgehog's spiky, monotonic features (arXiv:2402.04347).

    Shapes: x [B, H, L, E], weight [H, E, F]; result [B, H, L, 2 F].

    >>> features(torch.zeros(1, 1, 1, 2), torch.ones(1, 2, 2)).flatten().tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    found = x @ weight
    return torch.cat([found.softmax(-1), (-found).softmax(-1)], -1)


def distilled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    *,
    asked: Tensor,
    known: Tensor,
    causal: bool = False,
    chunk: int = 64,
    scale: float | None = None,
) -> Tensor:
    """Linear attention with learned features, see `distill`; ``scale`` is part of the learned weights.

    Shapes: query [B, H, L, E], key and value [B, H or fewer, S, ...], weights ``asked`` and ``known`` [H, E, F].
    """
    heads = query.shape[1]
    keys = features(repeated(key, heads), known)
    keys = keys if bias is None else keys * bias.mT.exp()
    return linear_attention(features(query, asked), keys, repeated(value, heads), causal=causal, chunk=chunk)


def distill(
    samples: Sequence[tuple[Tensor, Tensor, Tensor, Tensor | None]],
    wanted: Sequence[Tensor],
    *,
    width: int,
    causal: bool = False,
    scale: float | None = None,
    steps: int = 150,
    rate: float = 0.02,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Weights of the feature maps of queries and keys that make linear attention give ``wanted``, [H, E, width] each.

    It is learned from the outputs of the attention itself (attention transfer, LoLCATs, arXiv:2410.10254); nothing else
    of the model moves. Adam on the mean squared error, each head's by its own energy.

    Args:
        samples: query, key, value and bias of calls, as in `distilled_attention`.
        wanted: what softmax attention gives for each.
    """
    query, key = samples[0][0], samples[0][1]
    heads, size = query.shape[1], query.shape[-1]
    scale = size**-0.5 if scale is None else scale
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(heads, size, width, generator=generator) * scale**0.5
    weights = [torch.nn.Parameter(start.clone().to(query.device)) for _ in range(2)]
    energy = sum(out.float().square().mean((0, 2, 3)) for out in wanted) / len(wanted)
    optimizer = torch.optim.Adam(weights, rate)
    with torch.enable_grad():
        for step in range(steps):
            place = step % len(samples)
            query, key, value, bias = samples[place]
            query, key, value = (x.detach().float() for x in (query, key, value))
            bias = None if bias is None else bias.detach().float()
            made = distilled_attention(query, key, value, bias, asked=weights[0], known=weights[1], causal=causal)
            loss = ((made - wanted[place].float()).square().mean((0, 2, 3)) / (energy + 1e-12)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    asked, known = (weight.detach().to(samples[0][0].dtype) for weight in weights)
    return asked, known
