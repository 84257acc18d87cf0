"""Layers that leave until a budget holds, or because they spoil the rest: those that cost most for what they bring."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from tersor.context import Context
from tersor.passes.quantize import Quantize
from tersor.quant.fallback import within_budget
from tersor.quant.placement import rules
from tersor.quant.plan import Layer, candidates
from tests.passes.harness import captured


@pytest.fixture(scope="module")
def layers() -> list[Layer]:
    table = rules("onnxruntime")
    program = captured(nn.Sequential(*(nn.Linear(4, 4) for _ in range(9))), torch.rand(2, 4))
    return [layer for _, layer in candidates(program, table) if isinstance(layer, Layer)]


@pytest.mark.parametrize("spoilers", [0, 1, 2, 3, 5, 8])
def test_the_fewest_leave(layers: list[Layer], spoilers: int) -> None:
    costs = {layer.node.name: float(place) for place, layer in enumerate(layers)}
    bad = {layer.node.name for layer in layers[len(layers) - spoilers :]}
    trials = []

    def accepts(chosen: Sequence[Layer]) -> bool:
        trials.append(chosen)
        return not bad & {layer.node.name for layer in chosen}

    stay = within_budget(layers, costs, accepts)
    assert [layer.node.name for layer in stay] == [layer.node.name for layer in layers[: len(layers) - spoilers]]
    assert len(trials) <= 8


def test_all_come_back_where_nothing_is_accepted(layers: list[Layer]) -> None:
    costs = dict.fromkeys((layer.node.name for layer in layers), 1.0)
    assert within_budget(layers, costs, lambda chosen: False) == layers
    assert within_budget([], {}, lambda chosen: False) == []


class Spoiled(nn.Module):
    """Wide layers, and a narrow one in the middle that reads one channel much larger than all others."""

    def __init__(self, loud: float) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 256), nn.Linear(256, 64)
        self.narrow, self.wide = nn.Linear(64, 16), nn.Linear(16, 64)
        size = torch.ones(64)
        size[0] = loud
        self.size = nn.Buffer(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.last(torch.relu(self.first(x)))
        return y + self.wide(torch.relu(self.narrow(torch.tanh(y) * self.size)))


@pytest.mark.parametrize(
    ("loud", "relief", "leaves"), [(1e3, 0.1, True), (1.0, 0.1, False), (1e3, 0.0, False), (1e3, 0.01, False)]
)
def test_a_layer_that_makes_most_of_the_error_leaves(loud: float, relief: float, leaves: bool) -> None:
    torch.manual_seed(0)
    model, context = Spoiled(loud), Context()
    with torch.no_grad():
        model.narrow.weight[:, 0] /= loud
    Quantize(noise=0.5, relief=relief, anyway=True)(captured(model, torch.randn(32, 64)), context)
    assert len(context.taken) == (3 if leaves else 4)
    assert [site.node for site in context.skipped] == (["linear_2"] if leaves else [])
