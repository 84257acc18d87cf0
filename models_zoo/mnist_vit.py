"""Vision transformer for 28x28 grey digits with as many tokens as one for photographs, 196 and a class token
(arXiv:2010.11929)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tersor.models_zoo.digits_vit import Block


class MnistVit(nn.Module):
    """A stem of two convolutions instead of patches (arXiv:2106.14881), four pre-norm blocks, a linear head."""

    def __init__(self, width: int = 96, depth: int = 4, heads: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.patch = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, width, 3, 2, padding=1),
        )  # fmt: skip
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 197, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) in [0, 1] to logits (N, classes)."""
        patches = self.patch(images).flatten(2).transpose(1, 2)
        start = self.class_token.expand(images.shape[0], -1, -1)
        x = self.blocks(torch.cat([start, patches], dim=1) + self.position)
        return self.head(self.norm(x)[:, 0])


def build() -> nn.Module:
    """The model with freshly drawn weights, in training mode."""
    return MnistVit()


def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two random images."""
    return (torch.rand(2, 1, 28, 28, generator=generator),)


def dynamic() -> tuple[Any, ...]:
    """Any batch size."""
    return ({0: torch.export.Dim("batch")},)
