"""Transformer whose feed-forward part is a mixture of experts, top-2 of 4 (Mixtral, arXiv:2401.04088).

Every expert runs on every token and the router's weights mask the result, so that the graph has no data-dependent
shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Expert(nn.Module):
    """SwiGLU feed-forward part with gate and up projection packed into one layer, silu spelled out."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, 2 * hidden, bias=False)
        self.leave = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same shape."""
        gate, up = self.enter(x).chunk(2, dim=-1)
        return self.leave(gate * gate.sigmoid() * up)


class Mixture(nn.Module):
    """Weighted sum of the best experts of each token."""

    def __init__(self, width: int, hidden: int, experts: int, chosen: int) -> None:
        super().__init__()
        self.chosen = chosen
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(Expert(width, hidden) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same shape."""
        share = F.softmax(self.router(x), dim=-1)
        best, index = torch.topk(share, self.chosen, dim=-1)
        best = best / best.sum(dim=-1, keepdim=True)
        weight = torch.zeros_like(share).scatter(-1, index, best)
        parts = [weight[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts)]
        return torch.stack(parts).sum(dim=0)


class Layer(nn.Module):
    """Pre-norm causal attention with packed qkv, then the mixture."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.RMSNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.RMSNorm(width, eps=1e-6)
        self.mixture = Mixture(width, 2 * width, experts=4, chosen=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same shape."""
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).split(width, dim=-1)
        query, key, value = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mixture(self.norm2(x))


class Moe(nn.Module):
    """Token and position embeddings, two layers, RMS norm, logits."""

    def __init__(self, vocabulary: int = 256, width: int = 64, heads: int = 4, longest: int = 256) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(longest, width)
        self.layers = nn.Sequential(Layer(width, heads), Layer(width, heads))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T <= 256) int64 to next-token logits (N, T, vocabulary)."""
        places = self.positions.weight[: tokens.shape[1]]
        return self.head(self.norm(self.layers(self.tokens(tokens) + places)))


def build() -> nn.Module:
    """The model with freshly drawn weights, in training mode."""
    return Moe()


def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two rows of 24 random tokens."""
    return (torch.randint(0, 256, (2, 24), generator=generator),)


def dynamic() -> tuple[Any, ...]:
    """Any batch size, and up to 256 tokens."""
    return ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=256)},)
