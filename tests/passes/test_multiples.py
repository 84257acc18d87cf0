"""Widths that stay fill the blocks of the target's kernels, also inside the groups of a convolution."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tersor.axes import analyze, groups
from tersor.capture import load
from tersor.context import Context
from tersor.passes._multiples import inside_groups, preferred
from tersor.passes.prune import Prune
from tersor.program import Program
from tersor.target import detect

CPU = replace(detect(), multiple=16)


class Grouped(nn.Module):
    """RegNet's bottleneck: 1x1, grouped 3x3, 1x1."""

    def __init__(self, width: int = 96, inside: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, width, 1)
        self.grouped = nn.Conv2d(width, width, 3, padding=1, groups=width // inside)
        self.last = nn.Conv2d(width, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.grouped(self.first(x).relu()).relu())


def captured(width: int = 96, inside: int = 16) -> Program:
    torch.manual_seed(0)
    return load(Grouped(width, inside).eval(), (torch.randn(1, 8, 6, 6),))


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.7])
def test_whole_groups_go_and_none_gets_narrower(ratio: float) -> None:
    program = captured()
    Prune(ratio=ratio, of="flops", criterion="magnitude", allocation="uniform")(program, Context(target=CPU))
    kept = program.weights["grouped.weight"]
    assert kept.shape[1] == 16
    assert kept.shape[0] % 16 == 0 and 16 <= kept.shape[0] < 96


def test_without_a_multiple_they_do_get_narrower() -> None:
    program = captured()
    plain = replace(CPU, multiple=1)
    Prune(ratio=0.5, of="flops", criterion="magnitude", allocation="uniform")(program, Context(target=plain))
    assert program.weights["grouped.weight"].shape[1] < 16


def test_narrow_groups_stay_as_they_are() -> None:
    program, context = captured(32, 8), Context(target=CPU)
    Prune(ratio=0.5, of="flops", criterion="magnitude", allocation="uniform")(program, context)
    assert program.weights["grouped.weight"].shape[1] == 8
    assert program.weights["grouped.weight"].shape[0] in (16, 32)  # two groups of eight fill a block


@pytest.mark.parametrize(("width", "step"), [(96, 16), (48, 16), (32, 16), (24, 8), (16, 8), (12, 4), (5, 2)])
def test_steps_of_plain_channels(width: int, step: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 4, 1)).eval()
    program = load(model, (torch.randn(1, 3, 8, 8),))
    axes = analyze(program)
    (group,) = [item for item in groups(program, axes) if item.free and item.size == width]
    assert preferred(group, CPU, inside_groups(program, axes)) == step


def test_a_depthwise_convolution_has_no_channels_inside() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 4, 1)).eval()
    program = load(model, (torch.randn(1, 3, 8, 8),))
    assert inside_groups(program, analyze(program)) == frozenset()
