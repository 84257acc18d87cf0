"""Vision transformer for 8x8 grey digits: class token, packed qkv, attention by softmax (arXiv:2010.11929)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention with one packed qkv layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same shape."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query * self.scale @ key.transpose(-2, -1)).softmax(dim=-1)
        mixed = (self.drop(weights) @ value).transpose(1, 2).reshape(batch, tokens, width)
        return self.out(mixed)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        hidden = 3 * width
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DigitsVit(nn.Module):
    """2x2 patches, 16 patch tokens and a class token, four blocks, a linear head on the class token.

    Another ``patch``, from images to (N, width, rows, columns), and number of ``tokens`` fit other images.
    """

    def __init__(
        self, width: int = 64, depth: int = 4, heads: int = 4, classes: int = 10, patch: nn.Module | None = None,
        tokens: int = 17,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, 2) if patch is None else patch
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 1, 8, 8) in [0, 1] to logits (N, classes)."""
        patches = self.patch(images).flatten(2).transpose(1, 2)
        start = self.class_token.expand(images.shape[0], -1, -1)
        x = torch.cat([start, patches], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def build() -> nn.Module:
    """The model with freshly drawn weights, in training mode."""
    return DigitsVit()


def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two random images."""
    return (torch.rand(2, 1, 8, 8, generator=generator),)


def dynamic() -> tuple[Any, ...]:
    """Any batch size."""
    return ({0: torch.export.Dim("batch")},)
