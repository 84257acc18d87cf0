"""Windowed transformer: shifted windows, relative position bias, patch merging (Swin, arXiv:2103.14030)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def to_windows(x: Tensor, side: int) -> Tensor:
    """(N, H, W, C) to (N * windows, side * side, C)."""
    _, height, width, channels = x.shape
    x = x.view(-1, height // side, side, width // side, side, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, channels)


def from_windows(windows: Tensor, side: int, height: int, width: int) -> Tensor:
    """Inverse of ``to_windows``."""
    x = windows.view(-1, height // side, width // side, side, side, windows.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, windows.shape[-1])


def relative_index(side: int) -> Tensor:
    """Row of the bias table for each pair of places in a window, (side², side²) int64."""
    places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).flatten(1)
    offset = places[:, :, None] - places[:, None, :] + side - 1
    return offset[0] * (2 * side - 1) + offset[1]


def shift_mask(size: int, side: int, shift: int) -> Tensor:
    """(windows, side², side²): 0 within one region of the rolled image, -100 across regions."""
    region = torch.zeros(size)
    region[-side:-shift] = 1
    region[-shift:] = 2
    grid = (3 * region[:, None] + region[None, :])[None, :, :, None]
    windows = to_windows(grid, side).squeeze(-1)
    return (windows[:, None, :] != windows[:, :, None]).float() * -100.0


class WindowAttention(nn.Module):
    """Self-attention inside each window, with a learned bias per relative place."""

    index: Tensor

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.table = nn.Parameter(0.2 * torch.randn((2 * side - 1) ** 2, heads))
        self.register_buffer("index", relative_index(side), persistent=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Windows (M, T, C) and mask (windows, T, T) to (M, T, C)."""
        count, tokens, width = x.shape
        qkv = self.qkv(x).reshape(count, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        scores = query * (width // self.heads) ** -0.5 @ key.transpose(-2, -1)
        bias = self.table[self.index.view(-1)].view(tokens, tokens, self.heads).permute(2, 0, 1)
        scores = scores + bias.unsqueeze(0)
        if mask is not None:
            grouped = scores.view(-1, mask.shape[0], self.heads, tokens, tokens) + mask[None, :, None]
            scores = grouped.view(-1, self.heads, tokens, tokens)
        mixed = F.softmax(scores, dim=-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(count, tokens, width))


class Block(nn.Module):
    """Window attention, on the image as it is or rolled by half a window, and an MLP."""

    def __init__(self, width: int, heads: int, size: int, side: int, shift: int) -> None:
        super().__init__()
        self.size, self.side, self.shift = size, side, shift
        self.norm1 = nn.LayerNorm(width)
        self.attention: nn.Module = WindowAttention(width, heads, side)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
        self.register_buffer("mask", shift_mask(size, side, shift) if shift else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, size, size, C) to the same shape."""
        inner = self.norm1(x)
        if self.shift:
            inner = torch.roll(inner, (-self.shift, -self.shift), dims=(1, 2))
        windows = self.attention(to_windows(inner, self.side), self.mask)
        inner = from_windows(windows, self.side, self.size, self.size)
        if self.shift:
            inner = torch.roll(inner, (self.shift, self.shift), dims=(1, 2))
        x = x + inner
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Joins 2x2 neighbours into one place with twice the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, H / 2, W / 2, 2 C)."""
        corners = [x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        return self.reduce(self.norm(torch.cat(corners, dim=-1)))


class Swin(nn.Module):
    """2x2 patches of a 32x32 image, two stages of two blocks with 4x4 windows, a linear head."""

    def __init__(self, width: int = 32, heads: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 2, 2)
        self.norm1 = nn.LayerNorm(width)
        self.stage1 = nn.Sequential(Block(width, heads, 16, 4, 0), Block(width, heads, 16, 4, 2))
        self.merge = PatchMerging(width)
        self.stage2 = nn.Sequential(Block(2 * width, 2 * heads, 8, 4, 0), Block(2 * width, 2 * heads, 8, 4, 2))
        self.norm2 = nn.LayerNorm(2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, 32, 32) to logits (N, classes)."""
        x = self.norm1(self.patch(images).permute(0, 2, 3, 1))
        x = self.stage2(self.merge(self.stage1(x)))
        return self.head(self.norm2(x).mean(dim=(1, 2)))


def build() -> nn.Module:
    """The model with freshly drawn weights, in training mode."""
    return Swin()


def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two random images."""
    return (torch.randn(2, 3, 32, 32, generator=generator),)


def dynamic() -> tuple[Any, ...]:
    """Any batch size."""
    return ({0: torch.export.Dim("batch")},)
