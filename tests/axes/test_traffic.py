"""Bytes kept and moved and predicted time: by hand, and recounted after a cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tersor.axes import Axes, analyze, cut, groups
from tersor.axes.traffic import latency, memory, traffic
from tersor.axes.work import Cost, operations, parameters
from tersor.capture import load
from tersor.program import Program
from tersor.target import Target

TARGET = Target("cpu", balance=4.0)


class Residual(nn.Module):
    """Convolutions, a normalisation that stays, a residual sum and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.back = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 24, 1), nn.Conv2d(24, 8, 1)
        self.norm, self.head = nn.GroupNorm(1, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x)
        h = self.norm(h + self.back(torch.relu(self.inner(h))))
        return self.head(h.mean((2, 3)))


@pytest.fixture
def program() -> Program:
    torch.manual_seed(0)
    return load(Residual().eval(), (torch.rand(2, 3, 10, 10),))


def test_bytes_that_move_by_hand() -> None:
    program = load(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), (torch.rand(2, 8),))
    weights = 16 * 8 + 16 + 4 * 16 + 4
    tensors = 2 * 8 + 2 * 16 + 2 * 16 + 2 * 4
    axes = analyze(program)
    assert traffic(program, axes).total() == 4 * (weights + tensors)
    assert latency(program, axes, TARGET).total() == 2 * 2 * (16 * 8 + 4 * 16) + 4.0 * 4 * (weights + tensors)


def test_a_sum_that_joins_a_product_reads_only_the_other_operand(program: Program) -> None:
    pixels = 2 * 8 * 8
    tensors = [
        2 * 3 * 100, 8 * pixels,  # the stem reads and writes
        8 * pixels, 24 * pixels,  # so does the inner one, with its activation
        24 * pixels, 8 * pixels,  # and the last, which the sum joins
        8 * pixels,  # what else the sum reads
        8 * pixels, 8 * pixels,  # the normalisation
        8 * pixels, 2 * 8, 2 * 8, 2 * 5,
    ]  # fmt: skip
    axes = analyze(program)
    weights = parameters(program, axes).total()
    assert traffic(program, axes).total() == 4 * (weights + sum(tensors))


def test_the_busiest_moment_by_hand(program: Program) -> None:
    axes, pixels = analyze(program), 2 * 8 * 8
    busiest = 8 * pixels + 24 * pixels + 24 * pixels  # the residual waits while the activation is applied
    assert memory(program, axes).total() == 4 * (parameters(program, axes).total() + busiest)


@pytest.mark.parametrize(
    "measure", [operations, parameters, traffic, memory, lambda p, a: latency(p, a, TARGET)],
    ids=["flops", "parameters", "traffic", "memory", "latency"],
)  # fmt: skip
def test_the_closed_form_is_what_a_recount_after_the_cut_gives(
    program: Program, measure: Callable[[Program, Axes], Cost]
) -> None:
    axes = analyze(program)
    free = [group for group in groups(program, axes) if group.free]
    assert {group.size for group in free} == {8, 24}
    counts = {group.axis: group.size // 2 for group in free}
    predicted = measure(program, axes).total(counts)
    cut(program, axes, {axis: torch.arange(count) for axis, count in counts.items()})
    recounted = measure(program, analyze(program)).total()
    assert predicted == pytest.approx(recounted, rel=1e-12)
