"""Densely connected CNN for 28x28 grey digits: concatenated features, grouped convolution, pre-activation batch norm
(DenseNet, arXiv:1608.06993)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DenseLayer(nn.Module):
    """Appends ``growth`` new channels to all earlier ones."""

    def __init__(self, channels: int, growth: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.squeeze = nn.Conv2d(channels, 2 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * growth)
        self.conv = nn.Conv2d(2 * growth, growth, 3, padding=1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + growth, H, W)."""
        inner = self.squeeze(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv(F.relu(self.norm2(inner)))], dim=1)


class MnistCnn(nn.Module):
    """Two convolutions with max pooling, two dense blocks with a halving transition, a linear head."""

    def __init__(self, growth: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        )  # fmt: skip
        self.dense1 = nn.Sequential(*(DenseLayer(32 + i * growth, growth, 1) for i in range(3)))
        self.transition = nn.Sequential(nn.Conv2d(80, 64, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.AvgPool2d(2))
        self.dense2 = nn.Sequential(*(DenseLayer(64 + i * growth, growth, 4) for i in range(4)))
        self.norm = nn.BatchNorm2d(128)
        self.head = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) in [0, 1] to logits (N, classes)."""
        features = self.dense2(self.transition(self.dense1(self.stem(images))))
        return self.head(F.relu(self.norm(features)).mean(dim=(2, 3)))


def build() -> nn.Module:
    """The model with freshly drawn weights, in training mode."""
    return MnistCnn()


def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two random images."""
    return (torch.rand(2, 1, 28, 28, generator=generator),)


def dynamic() -> tuple[Any, ...]:
    """Any batch size."""
    return ({0: torch.export.Dim("batch")},)
