"""Small models whose importance can be computed by hand, captured and analysed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.axes import Axes, Group, analyze, groups
from tersor.capture.torch import capture_module
from tersor.context import Context
from tersor.interface import Flat
from tersor.program import Program
from tersor.refresh import refresh

BATCH = {0: torch.export.Dim("batch", min=2, max=512)}


@dataclass(frozen=True)
class Case:
    """A program with its analysis."""

    program: Program
    axes: Axes
    groups: list[Group]

    def group(self, weight: str, dim: int) -> Group:
        """The free group that a dimension of a weight holds."""
        (found,) = [g for g in self.groups if g.free and any((m.weight, m.dim) == (weight, dim) for m in g.members)]
        return found

    @property
    def free(self) -> list[Group]:
        """Groups that may lose indices."""
        return [group for group in self.groups if group.free and group.size > 1]


def captured(model: nn.Module, *inputs: Tensor) -> Case:
    """The model, in evaluation mode, with a dynamic batch."""
    program = refresh(capture_module(model.eval(), inputs, tuple(BATCH for _ in inputs)))
    axes = analyze(program)
    return Case(program, axes, groups(program, axes))


@functools.cache
def standard(model: Callable[[], nn.Module], *shape: int) -> Case:
    """A model with seeded weights for inputs of a shape without its batch; captured once, so never edit it."""
    return captured(seeded(model), drawn(2, *shape))


def context(*inputs: Flat, seed: int = 0) -> Context:
    return Context(calibration=inputs, seed=seed)


class Mlp(nn.Module):
    """One hidden layer, linear where ``bend`` is False."""

    def __init__(self, wide: int = 6, hidden: int = 5, out: int = 3, bend: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(wide, hidden, bias=bias), nn.Linear(hidden, out, bias=bias)
        self.bend = bend

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.second(F.relu(hidden) if self.bend else hidden)


class Convolutions(nn.Module):
    """A convolution, a depthwise one, one with two groups, one with everything, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2)
        self.last = nn.Conv2d(12, 4, (3, 2), dilation=(1, 2))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.depthwise(F.relu(self.first(x))))
        x = F.relu(self.last(F.relu(self.grouped(x))))
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """Self-attention with a residual stream and a feed-forward layer from the stream to itself."""

    def __init__(self, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.embed, self.heads = nn.Linear(5, width), heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out, self.mix, self.head = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        x = x + F.gelu(self.mix(x))
        return self.head(x)


class Peak(nn.Module):
    """A layer whose results are never summed over: only the largest counts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x).amax(-1, keepdim=True)


def seeded(model: Callable[..., nn.Module], seed: int = 0, **options: object) -> nn.Module:
    """A model with weights from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model(**options)


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
