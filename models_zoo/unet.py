"""U-Net: strided and transposed convolution, skip connections by concatenation, group norm (arXiv:1505.04597)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with group norm and silu; the second silu is spelled out."""

    def __init__(self, wide_in: int, wide_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, padding=1)
        self.norm1 = nn.GroupNorm(4, wide_out)
        self.conv2 = nn.Conv2d(wide_out, wide_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(4, wide_out)
        self.drop = nn.Dropout2d(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, wide_in, H, W) to (N, wide_out, H, W)."""
        x = self.drop(F.silu(self.norm1(self.conv1(x))))
        x = self.norm2(self.conv2(x))
        return x * torch.sigmoid(x)


class UNet(nn.Module):
    """Two levels down by pooling and by stride, two levels up by transposed convolution and by interpolation."""

    def __init__(self, width: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.enter = DoubleConv(3, width)
        self.pool = nn.MaxPool2d(2)
        self.middle = DoubleConv(width, 2 * width)
        self.down = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1)
        self.bottom = DoubleConv(2 * width, 4 * width)
        self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.join1 = DoubleConv(4 * width, 2 * width)
        self.up2 = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(2 * width, width, 1))
        self.join2 = DoubleConv(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, 32, 32) to a logit map (N, classes, 32, 32)."""
        fine = self.enter(images)
        coarse = self.middle(self.pool(fine))
        x = self.bottom(self.down(coarse))
        x = self.join1(torch.cat([self.up1(x), coarse], dim=1))
        x = self.join2(torch.cat((fine, self.up2(x)), 1))
        return self.head(x)


def build() -> nn.Module:
    """The model with freshly drawn weights, in training mode."""
    return UNet()


def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two random images."""
    return (torch.randn(2, 3, 32, 32, generator=generator),)


def dynamic() -> tuple[Any, ...]:
    """Any batch size."""
    return ({0: torch.export.Dim("batch")},)
