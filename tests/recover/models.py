"""Small programs, and cuts of them, for the tests of recovery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tersor.axes import Group, analyze, cut, groups
from tersor.axes.select import owners
from tersor.passes import EXACT
from tersor.pipeline import run
from tersor.program import Program
from tersor.recover import Correspondence
from tersor.spec import parse
from tests.passes.harness import captured

Keep = Callable[[Program, Group], Tensor]


def cut_groups(program: Program, keep: Keep, kinds: tuple[str, ...] = ("hidden", "channels")) -> Any:
    """A cut copy of a program, and how it corresponds to it; ``keep`` gives the indices of a group that stay."""
    damaged = program.clone()
    axes = analyze(damaged)
    kept = {g.axis: keep(damaged, g) for g in groups(damaged, axes) if g.free and g.kind in kinds and g.size >= 4}
    assert kept, "nothing to cut"
    cut(damaged, axes, kept)
    return damaged, Correspondence.cut(axes, kept)


def first_half(program: Program, group: Group) -> Tensor:
    return torch.arange(group.size // 2)


def largest(share: float) -> Keep:
    """The indices with the largest weights."""

    def keep(program: Program, group: Group) -> Tensor:
        energy = torch.zeros(group.size, dtype=torch.float64)
        for member in group.members:
            weight = program.weights[member.weight].double().movedim(member.dim, 0)
            owner = owners(member.term, group.axis)
            energy.index_add_(0, owner[owner >= 0], weight.reshape(len(owner), -1).square().sum(1)[owner >= 0])
        return energy.topk(round(share * group.size)).indices.sort().values

    return keep


def duplicated(inner: nn.Module, outer: nn.Module, act: nn.Module | None = None) -> nn.Module:
    """Two layers between which the second half of the channels repeats the first."""
    half = inner.weight.shape[0] // 2  # type: ignore[index]
    with torch.no_grad():
        inner.weight[half:] = inner.weight[:half]  # type: ignore[index, operator]
        if inner.bias is not None:
            inner.bias[half:] = inner.bias[:half]  # type: ignore[index, operator]
    return nn.Sequential(inner, act or nn.ReLU(), outer).eval()


def program_of(model: nn.Module, x: Tensor) -> Program:
    return captured(model, x)


def exact(program: Program) -> Program:
    """After the exact passes, as lossy passes find it."""
    return run(program, parse(EXACT)).program


def batches(shape: tuple[int, ...], count: int = 8, size: int = 16, seed: int = 0) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(size, *shape, generator=generator),) for _ in range(count)]


def unchanged(program: Program) -> Callable[[], bool]:
    """Whether a program still is what it was."""
    weights = {name: value.clone() for name, value in program.weights.items()}
    text = [node.format_node() for node in program.nodes]

    def check() -> bool:
        same = all(torch.equal(weights[name], program.weights[name]) for name in weights)
        return same and text == [node.format_node() for node in program.nodes] and len(weights) == len(program.weights)

    return check
