"""Layers that leave until a budget holds: the fewest, those that cost most for what they bring first."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

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
