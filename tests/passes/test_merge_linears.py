"""Layers on one input become one layer and a split."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.harness import Compute, apply, assert_equal, captured, operators, reasons


def _x(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_query_key_value() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 4, bias=False), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Any:
            x = x.relu()
            return self.query(x), self.key(x), self.value(x).exp()

    model, x = Attention(), _x(2, 5, 8)
    program = captured(model, x)
    names = program.interface.output_names
    apply(program, "merge-linears")
    assert operators(program) == {"relu": 1, "linear": 1, "split_with_sizes": 1, "getitem": 3, "exp": 1}
    assert program.interface.output_names == names
    assert len(program.weights) == 2
    assert_equal(program, model, x)


def test_layers_that_follow_each_other_are_not_merged() -> None:
    model, x = Compute(lambda x, a, b: F.linear(F.linear(x, a), b), a=_x(8, 8), b=_x(4, 8)), _x(2, 8)
    program = captured(model, x)
    assert not apply(program, "merge-linears").taken


def test_second_layer_depends_on_the_first_besides() -> None:
    model = Compute(lambda x, a, b: F.linear(x, b) * F.linear(x, a).sum(), a=_x(8, 8), b=_x(4, 8))
    x = _x(2, 8)
    program = captured(model, x)
    apply(program, "merge-linears")
    assert operators(program)["linear"] == 1
    assert_equal(program, model, x)


def test_tied_weight_is_not_stored_twice() -> None:
    def function(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return F.linear(x, a) + F.linear(x, b) + F.linear(x.relu(), a)

    model, x = Compute(function, a=_x(8, 8), b=_x(8, 8) * 2), _x(2, 8)
    program = captured(model, x)
    assert "merging would store it twice" in reasons(apply(program, "merge-linears"))
    assert operators(program)["linear"] == 3


def test_convolutions_on_request() -> None:
    weights = {"a": _x(2, 4, 3, 3), "b": _x(2, 4, 3, 3) + 1}
    model, x = Compute(lambda x, a, b: F.conv2d(x, a).relu() * F.conv2d(x, b), **weights), _x(2, 4, 6, 6)
    program = captured(model, x)
    assert not apply(program, "merge-linears").taken
    apply(program, "merge-linears{convolutions=true}")
    assert operators(program) == {"conv2d": 1, "split_with_sizes": 1, "getitem": 2, "relu": 1, "mul": 1}
    assert_equal(program, model, x)


def test_other_geometry_is_another_layer() -> None:
    model = Compute(lambda x, a, b: F.conv2d(x, a, padding=1) + F.conv2d(x, b), a=_x(2, 4, 3, 3), b=_x(2, 4, 1, 1))
    x = _x(2, 4, 6, 6)
    program = captured(model, x)
    assert not apply(program, "merge-linears{convolutions=true}").taken
    assert_equal(program, model, x)
