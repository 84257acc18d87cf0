"""Small transformers of every make, and inputs whose tokens are there twice, so that merging changes nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = {0: torch.export.Dim("batch", min=2, max=64)}


def pairs(batch: int = 2, count: int = 6, width: int = 8, seed: int = 0) -> Tensor:
    """[batch, 2 * count, width]: every token is there twice, side by side."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(batch, count, width, generator=draws).repeat_interleave(2, dim=1)


def paired_tables(model: Encoder) -> Encoder:
    """The encoder with position tables that are the same for both tokens of a pair."""
    of = torch.tensor([0] + [1 + place // 2 for place in range(12)])
    with torch.no_grad():
        if model.bias is not None:
            model.bias.copy_(model.bias[:, :, of][:, :, :, of])
        if model.turn is not None:
            model.turn.copy_(model.turn[of])
    return model


class Block(nn.Module):
    """Attention and MLP with residuals; norms before or behind."""

    def __init__(self, width: int, heads: int, post: bool = False) -> None:
        super().__init__()
        self.heads, self.post = heads, post
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def attend(self, x: Tensor, bias: Tensor | None, turn: Tensor | None, causal: bool) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        if turn is not None:
            query, key = query * turn, key * turn
        mixed = F.scaled_dot_product_attention(query, key, value, bias, is_causal=causal)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))

    def forward(
        self, x: Tensor, bias: Tensor | None = None, turn: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        if self.post:
            x = self.norm1(x + self.attend(x, bias, turn, causal))
            return self.norm2(x + self.mlp(x))
        x = x + self.attend(self.norm1(x), bias, turn, causal)
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """(batch, tokens, 8) to what ``read`` makes of the tokens behind three blocks.

    Attributes:
        special: learned tokens in front.
        read: "class" takes the first token, "mean" averages all but the special ones, "all" gives every token,
            "picture" puts them back into a grid of 3 rows, "last" takes the last token.
    """

    def __init__(self, special: int = 1, read: str = "class", post: bool = False, bias: str = "", turn: bool = False,
                 causal: bool = False, tokens: int = 12, width: int = 16, heads: int = 2) -> None:  # fmt: skip
        super().__init__()
        torch.manual_seed(special + len(read))
        self.enter = nn.Linear(8, width)
        self.special = nn.Parameter(torch.randn(1, special, width)) if special else None
        self.blocks = nn.ModuleList(Block(width, heads, post) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)
        self.read, self.count, self.causal = read, special, causal
        whole = tokens + special
        self.bias = nn.Parameter(torch.randn(1, heads, whole, whole)) if bias == "table" else None
        self.turn = nn.Parameter(torch.randn(whole, width // heads)) if turn else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        if self.special is not None:
            x = torch.cat([self.special.expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x, self.bias, self.turn, self.causal)
        x = self.norm(x)
        if self.read == "class":
            x = x[:, 0]
        elif self.read == "last":
            x = x[:, -1]
        elif self.read == "mean":
            x = x[:, self.count :].mean(1)
        x = self.head(x)
        return x.reshape(x.shape[0], 3, -1, 5).permute(0, 3, 1, 2) if self.read == "picture" else x


class Padded(nn.Module):
    """Post-norm blocks over (batch, tokens, 8) under a mask (batch, tokens) of real tokens; the first token is read."""

    def __init__(self, boolean: bool = False) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.enter, self.boolean = nn.Linear(8, 16), boolean
        self.blocks = nn.ModuleList(Block(16, 2, post=True) for _ in range(3))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        seen = mask[:, None, None, :]
        bias: Any = seen > 0 if self.boolean else (1.0 - seen) * torch.finfo(x.dtype).min
        x = self.enter(x)
        for block in self.blocks:
            x = block(x, bias)
        return self.head(x[:, 0])


class Windows(nn.Module):
    """(batch, 8, 8, 16) in windows of 4 by 4."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.norm, self.block, self.head = nn.LayerNorm(16), Block(16, 2), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.norm(x).view(-1, 2, 4, 2, 4, 16).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 16)
        inner = self.block(parts).view(-1, 2, 2, 4, 4, 16).permute(0, 1, 3, 2, 4, 5).reshape(-1, 8, 8, 16)
        return self.head((x + inner).mean((1, 2)))
