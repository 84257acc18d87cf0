"""Diffusion transformer: norms whose scale and shift come from time and class, adaLN (DiT, arXiv:2212.09748)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def time_features(time: Tensor, width: int) -> Tensor:
    """Sines and cosines of time (N,) at ``width / 2`` frequencies, (N, width)."""
    half = width // 2
    frequency = torch.exp(-math.log(10000.0) / half * torch.arange(half, device=time.device))
    angle = time[:, None] * frequency[None]
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scales and shifts tokens (N, T, C) by (N, C)."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class Block(nn.Module):
    """Transformer block whose six modulation vectors come from the condition."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def attend(self, x: Tensor) -> Tensor:
        """(N, T, C) to the same shape."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0))
        return self.out(mixed.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Tokens (N, T, C) and condition (N, C) to (N, T, C)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attend(modulate(self.norm1(x), shift1, scale1))
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))


class Dit(nn.Module):
    """Predicts the noise in a 4-channel 16x16 latent, 2x2 patches, two blocks."""

    def __init__(self, width: int = 64, heads: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.patch = nn.Conv2d(4, width, 2, 2)
        self.position = nn.Parameter(0.1 * torch.randn(1, 64, width))
        self.time = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(2))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.head = nn.Linear(width, 2 * 2 * 4)

    def forward(self, latent: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Latent (N, 4, 16, 16), time (N,) in [0, 1000), label (N,) int64 to noise of the latent's shape."""
        x = self.patch(latent).flatten(2).transpose(1, 2) + self.position
        condition = self.time(time_features(time, 32)) + self.label(label)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=1)
        patches = self.head(modulate(self.norm(x), shift, scale)).reshape(-1, 8, 8, 2, 2, 4)
        return torch.einsum("nhwpqc->nchpwq", patches).reshape(-1, 4, 16, 16)


def build() -> nn.Module:
    """The model with freshly drawn weights, in training mode."""
    return Dit()


def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two random latents, times and labels."""
    latent = torch.randn(2, 4, 16, 16, generator=generator)
    time = 1000 * torch.rand(2, generator=generator)
    return latent, time, torch.randint(0, 10, (2,), generator=generator)


def dynamic() -> tuple[Any, ...]:
    """Any batch size."""
    batch = torch.export.Dim("batch")
    return ({0: batch}, {0: batch}, {0: batch})
