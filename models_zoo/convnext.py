"""ConvNeXt-like CNN: 7x7 depthwise convolution, channels-last layer norm, layer scale (arXiv:2201.03545)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """Layer norm over the channels of an (N, C, H, W) tensor, spelled out without moving the channels."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(channels))
        self.bias = nn.Parameter(0.1 * torch.randn(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Block(nn.Module):
    """Depthwise 7x7, then a pointwise MLP on channels-last tensors, scaled and added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.up = nn.Linear(channels, 4 * channels)
        self.down = nn.Linear(4 * channels, channels)
        # Training starts near 1e-6; a value of this size keeps the branch visible at random weights.
        self.scale = nn.Parameter(0.5 + 0.1 * torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        inner = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        inner = self.scale * self.down(F.gelu(self.up(inner)))
        return x + inner.permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """Patch stem, two stages of two blocks with a strided convolution between them, a linear head."""

    def __init__(self, widths: tuple[int, int] = (48, 96), classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0]))
        self.stage1 = nn.Sequential(Block(widths[0]), Block(widths[0]))
        self.down = nn.Sequential(ChannelNorm(widths[0]), nn.Conv2d(widths[0], widths[1], 2, 2))
        self.stage2 = nn.Sequential(Block(widths[1]), Block(widths[1]))
        self.norm = nn.LayerNorm(widths[1], eps=1e-6)
        self.head = nn.Linear(widths[1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, 32, 32) to logits (N, classes)."""
        features = self.stage2(self.down(self.stage1(self.stem(images))))
        return self.head(self.norm(features.mean((-2, -1))))


def build() -> nn.Module:
    """The model with freshly drawn weights, in training mode."""
    return ConvNext()


def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two random images."""
    return (torch.randn(2, 3, 32, 32, generator=generator),)


def dynamic() -> tuple[Any, ...]:
    """Any batch size."""
    return ({0: torch.export.Dim("batch")},)
