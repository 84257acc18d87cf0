"""Inverted-bottleneck CNN for 8x8 grey digits: depthwise convolution, squeeze-and-excite, hard-swish (MobileNetV3,
arXiv:1905.02244)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def hard_swish(x: Tensor) -> Tensor:
    """``x * relu6(x + 3) / 6`` spelled out, as many exported files have it."""
    return x * F.relu6(x + 3.0) / 6.0


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the channel means (arXiv:1709.01507)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        gate = F.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * F.hardsigmoid(self.expand(gate))


class InvertedBottleneck(nn.Module):
    """Expand with 1x1, filter each channel with 3x3, gate, project with 1x1 and no activation."""

    def __init__(self, wide_in: int, wide_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = wide_in * expansion
        self.residual = stride == 1 and wide_in == wide_out
        self.expand = nn.Sequential(nn.Conv2d(wide_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden))
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.gate = SqueezeExcite(hidden, max(8, hidden // 4))
        self.project = nn.Sequential(nn.Conv2d(hidden, wide_out, 1, bias=False), nn.BatchNorm2d(wide_out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, wide_in, H, W) to (N, wide_out, H / stride, W / stride)."""
        inner = hard_swish(self.expand(x))
        inner = hard_swish(self.norm(self.depthwise(inner)))
        inner = self.project(self.gate(inner))
        return x + inner if self.residual else inner


class DigitsMobile(nn.Module):
    """Stem, five inverted bottlenecks at two resolutions, a 1x1 convolution, pooling, two linear layers."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.blocks = nn.Sequential(
            InvertedBottleneck(16, 16, 2, 1),
            InvertedBottleneck(16, 24, 4, 2),
            InvertedBottleneck(24, 24, 4, 1),
            InvertedBottleneck(24, 32, 4, 1),
            InvertedBottleneck(32, 32, 4, 1),
        )
        self.last = nn.Sequential(nn.Conv2d(32, 96, 1, bias=False), nn.BatchNorm2d(96), nn.Hardswish())
        self.head = nn.Sequential(nn.Linear(96, 128), nn.Hardswish(), nn.Dropout(0.1), nn.Linear(128, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 1, 8, 8) in [0, 1] to logits (N, classes)."""
        features = self.last(self.blocks(self.stem(images)))
        return self.head(F.adaptive_avg_pool2d(features, 1).flatten(1))


def build() -> nn.Module:
    """The model with freshly drawn weights, in training mode."""
    return DigitsMobile()


def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two random images."""
    return (torch.rand(2, 1, 8, 8, generator=generator),)


def dynamic() -> tuple[Any, ...]:
    """Any batch size."""
    return ({0: torch.export.Dim("batch")},)
