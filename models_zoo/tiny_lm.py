"""Small language model of bytes: the decoder's layers, trained on English prose (arXiv:2307.09288; ``data.prose``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tersor.models_zoo.decoder import Layer, RmsNorm, Rotary

WIDTH, HEADS, SHARED, HIDDEN, DEPTH = 128, 4, 2, 384, 4


class TinyLM(nn.Module):
    """Byte embedding, four layers of grouped-query attention and SwiGLU, RMS norm, and a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, WIDTH)
        self.rotary = Rotary(WIDTH // HEADS)
        self.layers = nn.ModuleList(Layer(WIDTH, HEADS, SHARED, HIDDEN) for _ in range(DEPTH))
        self.norm = RmsNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 256, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Bytes (N, T) int64 to next-byte logits (N, T, 256)."""
        x = self.tokens(tokens)
        cosine, sine = self.rotary(tokens)
        for layer in self.layers:
            x = layer(x, cosine, sine)
        return self.head(self.norm(x))


def build() -> nn.Module:
    """The model with freshly drawn weights, in training mode."""
    return TinyLM()


def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two rows of 24 random letters."""
    return (torch.randint(97, 123, (2, 24), generator=generator),)


def dynamic() -> tuple[Any, ...]:
    """Any batch size and any length; it was trained on 128 bytes at a time."""
    return ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=2048)},)
