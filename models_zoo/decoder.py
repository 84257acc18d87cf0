"""Causal decoder: grouped-query attention, rotary embedding, RMS norm, SwiGLU (Llama, arXiv:2307.09288)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RmsNorm(nn.Module):
    """Root-mean-square norm over the last dimension, spelled out (arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same shape."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rotate_half(x: Tensor) -> Tensor:
    """The second half of the last dimension, negated, then the first."""
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class Rotary(nn.Module):
    """Angles of the rotary position embedding (arXiv:2104.09864)."""

    frequency: Tensor

    def __init__(self, head_width: int, base: float = 10000.0) -> None:
        super().__init__()
        steps = torch.arange(0, head_width, 2).float() / head_width
        self.register_buffer("frequency", base**-steps, persistent=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, T) to cosine and sine, each (T, head width)."""
        place = torch.arange(tokens.shape[1], device=tokens.device).float()
        angle = place[:, None] * self.frequency[None, :]
        angle = torch.cat((angle, angle), dim=-1)
        return angle.cos(), angle.sin()


class Attention(nn.Module):
    """Causal attention in which several query heads share one key and value head (arXiv:2305.13245)."""

    def __init__(self, width: int, heads: int, shared: int) -> None:
        super().__init__()
        self.heads, self.shared, self.head_width = heads, shared, width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, shared * self.head_width, bias=False)
        self.value = nn.Linear(width, shared * self.head_width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def repeat(self, x: Tensor) -> Tensor:
        """(N, shared, T, head width) to (N, heads, T, head width), each head repeated."""
        batch, shared, length, width = x.shape
        x = x[:, :, None].expand(batch, shared, self.heads // shared, length, width)
        return x.reshape(batch, self.heads, length, width)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """States (N, T, width) and angles (T, head width) to (N, T, width)."""
        batch, length, width = x.shape
        query = self.query(x).view(batch, length, self.heads, -1).transpose(1, 2)
        key = self.key(x).view(batch, length, self.shared, -1).transpose(1, 2)
        value = self.value(x).view(batch, length, self.shared, -1).transpose(1, 2)
        query = query * cosine + rotate_half(query) * sine
        key = key * cosine + rotate_half(key) * sine
        mixed = F.scaled_dot_product_attention(query, self.repeat(key), self.repeat(value), is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Layer(nn.Module):
    """Pre-norm decoder layer with a SwiGLU feed-forward part (arXiv:2002.05202)."""

    def __init__(self, width: int, heads: int, shared: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = RmsNorm(width)
        self.attention = Attention(width, heads, shared)
        self.norm2 = RmsNorm(width)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """States (N, T, width) and angles (T, head width) to (N, T, width)."""
        x = x + self.attention(self.norm1(x), cosine, sine)
        inner = self.norm2(x)
        return x + self.down(F.silu(self.gate(inner)) * self.up(inner))


class Decoder(nn.Module):
    """Token embedding, two layers, RMS norm, and logits through the transposed embedding."""

    def __init__(self, vocabulary: int = 256, width: int = 96, heads: int = 6, shared: int = 2) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.rotary = Rotary(width // heads)
        self.layers = nn.ModuleList(Layer(width, heads, shared, 256) for _ in range(2))
        self.norm = RmsNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.1)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T) int64 to next-token logits (N, T, vocabulary)."""
        x = self.tokens(tokens)
        cosine, sine = self.rotary(tokens)
        for layer in self.layers:
            x = layer(x, cosine, sine)
        return self.head(self.norm(x))


def build() -> nn.Module:
    """The model with freshly drawn weights, in training mode."""
    return Decoder()


def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two rows of 24 random tokens."""
    return (torch.randint(0, 256, (2, 24), generator=generator),)


def dynamic() -> tuple[Any, ...]:
    """Any batch size and any length."""
    return ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=2048)},)
