"""Vision transformer for 28x28 grey digits with as many tokens as one for photographs, 196 and a class token
(arXiv:2010.11929)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tersor.models_zoo.digits_vit import DigitsVit


class MnistVit(DigitsVit):
    """A stem of two convolutions instead of patches (arXiv:2106.14881), four pre-norm blocks, a linear head."""

    def __init__(self, width: int = 96) -> None:
        stem = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, width, 3, 2, padding=1),
        )  # fmt: skip
        super().__init__(width, depth=4, heads=3, patch=stem, tokens=197)


def build() -> nn.Module:
    """The model with freshly drawn weights, in training mode."""
    return MnistVit()


def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two random images."""
    return (torch.rand(2, 1, 28, 28, generator=generator),)


def dynamic() -> tuple[Any, ...]:
    """Any batch size."""
    return ({0: torch.export.Dim("batch")},)
