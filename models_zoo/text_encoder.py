"""BERT-like byte encoder: post-norm, separate q, k, v, padding mask, gelu written with erf (arXiv:1810.04805).

Trained to tell the general category of a Unicode character from its name (see ``data.names``).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def gelu(x: Tensor) -> Tensor:
    """The exact gelu, spelled out (arXiv:1606.08415)."""
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


class Attention(nn.Module):
    """Multi-head self-attention with an additive mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(0.1)

    def split(self, x: Tensor) -> Tensor:
        """(N, T, width) to (N, heads, T, head width)."""
        return x.view(x.shape[0], x.shape[1], self.heads, self.head_width).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """States (N, T, width) and bias (N, 1, 1, T) to (N, T, width)."""
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.head_width)
        weights = self.drop(torch.softmax(scores + bias, dim=-1))
        mixed = torch.matmul(weights, value).permute(0, 2, 1, 3).contiguous()
        return self.out(mixed.view(x.shape[0], x.shape[1], self.heads * self.head_width))


class Layer(nn.Module):
    """Post-norm encoder layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """States (N, T, width) and bias (N, 1, 1, T) to (N, T, width)."""
        x = self.norm1(x + self.drop(self.attention(x, bias)))
        return self.norm2(x + self.drop(self.down(gelu(self.up(x)))))


class TextEncoder(nn.Module):
    """Byte and position embeddings, three layers, a tanh pooler on the first token, a linear head."""

    def __init__(self, width: int = 72, depth: int = 3, heads: int = 4, longest: int = 64, classes: int = 8) -> None:
        super().__init__()
        self.tokens = nn.Embedding(128, width)
        self.positions = nn.Embedding(longest, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.drop = nn.Dropout(0.1)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.pooler = nn.Linear(width, width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Bytes (N, T <= 64) int64 and mask (N, T), 1 where a byte is real, to logits (N, classes)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.drop(self.norm(self.tokens(tokens) + self.positions(positions)))
        bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, bias)
        return self.head(self.drop(torch.tanh(self.pooler(x[:, 0]))))


def build() -> nn.Module:
    """The model with freshly drawn weights, in training mode."""
    return TextEncoder()


def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two rows of 48 random capital letters, the second padded from its 31st byte on."""
    tokens = torch.randint(65, 91, (2, 48), generator=generator)
    mask = torch.ones_like(tokens)
    mask[1, 30:] = 0
    return tokens * mask, mask


def dynamic() -> tuple[Any, ...]:
    """Any batch size, and up to 64 bytes."""
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=64)
    return ({0: batch, 1: length}, {0: batch, 1: length})
