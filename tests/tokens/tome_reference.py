"""ToMe as a patch of a module's blocks, written from the paper (arXiv:2210.09461, section 3 and appendix D)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


def matched(metric: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """(unmerged, sources, destinations): indices into A, A and B of bipartite soft matching, the class token kept."""
    metric = metric / metric.norm(dim=-1, keepdim=True)
    a, b = metric[:, ::2], metric[:, 1::2]
    scores = a @ b.transpose(-1, -2)
    scores[:, 0] = -torch.inf
    value, place = scores.max(dim=-1)
    order = value.argsort(dim=-1, descending=True)
    sources, unmerged = order[:, :r], order[:, r:].sort(dim=1).values
    return unmerged, sources, place.gather(1, sources)


def merge(x: Tensor, found: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Sums of merged tokens: those of A that stay, then all of B."""
    unmerged, sources, destinations = found
    a, b = x[:, ::2], x[:, 1::2]

    def rows(index: Tensor) -> Tensor:
        return index[:, :, None].expand(-1, -1, x.shape[-1])

    stay, go = a.gather(1, rows(unmerged)), a.gather(1, rows(sources))
    return torch.cat([stay, b.scatter_add(1, rows(destinations), go)], dim=1)


class Patched(nn.Module):
    """A block that merges ``r`` tokens between attention and MLP, with proportional attention."""

    def __init__(self, block: Any, r: int, state: dict[str, Any]) -> None:
        super().__init__()
        self.block, self.r, self.state = block, r, state

    def forward(self, x: Tensor) -> Tensor:
        size = self.state.get("size")
        mixed, metric = self.attend(self.block.norm1(x), size)
        x = x + mixed
        every = torch.eye(x.shape[1]).expand(x.shape[0], -1, -1)
        r = min(self.r, (x.shape[1] - 1) // 2)
        if r:
            if size is None:
                size = torch.ones_like(x[..., :1])
            found = matched(metric, r)
            x, size = merge(x * size, found), merge(size, found)
            x = x / size
            self.state["size"] = size
            self.state["source"] = merge(self.state.get("source", every), found)
        return x + self.block.mlp(self.block.norm2(x))

    def attend(self, x: Tensor, size: Tensor | None) -> tuple[Tensor, Tensor]:
        attention = self.block.attention
        batch, tokens, width = x.shape
        qkv = attention.qkv(x).reshape(batch, tokens, 3, attention.heads, width // attention.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.transpose(-1, -2) * (width // attention.heads) ** -0.5
        if size is not None:
            scores = scores + size.log()[:, None, None, :, 0]
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, tokens, width)
        return attention.out(mixed), key.mean(1)


class Patch(nn.Module):
    """A ViT of the zoo whose blocks merge ``r[i]`` tokens; `source` tells which tokens each new one is made of."""

    def __init__(self, model: nn.Module, r: list[int]) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.state: dict[str, Any] = {}
        blocks: Any = self.model.blocks
        self.model.blocks = nn.Sequential(*(Patched(block, n, self.state) for block, n in zip(blocks, r, strict=True)))

    def forward(self, images: Tensor) -> Tensor:
        self.state.clear()
        made: Tensor = self.model(images)
        return made

    @property
    def source(self) -> Tensor:
        """[B, K, T] of the last call: 1 where an original token is part of a new one."""
        found: Tensor = self.state["source"]
        return found
