"""Vision-language model: patches of a picture, projected in between the words that a causal decoder reads.

After LLaVA (arXiv:2304.08485): vision transformer, two-layer projector, decoder with rotary positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tersor.models_zoo.decoder import Layer, RmsNorm, Rotary
from tersor.models_zoo.digits_vit import Block

BEFORE, AFTER, PICTURE, PATCH = 5, 11, 32, 4


class VisionLanguage(nn.Module):
    """Five words, 64 patches of a picture, eleven words; two vision blocks and six decoder layers."""

    def __init__(self, vocabulary: int = 256, width: int = 96, heads: int = 6, shared: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 64, PATCH, PATCH)
        self.position = nn.Parameter(0.02 * torch.randn(1, (PICTURE // PATCH) ** 2, 64))
        self.vision = nn.ModuleList(Block(64, 4) for _ in range(2))
        self.projector = nn.Sequential(nn.Linear(64, width), nn.GELU(), nn.Linear(width, width))
        self.words = nn.Embedding(vocabulary, width)
        self.rotary = Rotary(width // heads)
        self.layers = nn.ModuleList(Layer(width, heads, shared, 256) for _ in range(6))
        self.norm = RmsNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, picture: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Pictures (N, 3, 32, 32), words (N, 5) and (N, 11) int64 to next-word logits (N, vocabulary)."""
        patches = self.patch(picture).flatten(2).transpose(1, 2) + self.position
        for block in self.vision:
            patches = block(patches)
        x = torch.cat([self.words(before), self.projector(patches), self.words(after)], dim=1)
        cosine, sine = self.rotary(x)
        for layer in self.layers:
            x = layer(x, cosine, sine)
        return self.head(self.norm(x)[:, -1])


def build() -> nn.Module:
    """The model with freshly drawn weights, in training mode."""
    return VisionLanguage()


def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two random pictures, and random words."""
    words = [torch.randint(0, 256, (2, count), generator=generator) for count in (BEFORE, AFTER)]
    return (torch.rand(2, 3, PICTURE, PICTURE, generator=generator), *words)


def dynamic() -> tuple[Any, ...]:
    """Any batch size."""
    batch = torch.export.Dim("batch")
    return ({0: batch},) * 3
