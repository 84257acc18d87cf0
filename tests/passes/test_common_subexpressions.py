"""Equal nodes are merged, equal large weights are tied."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.passes.harness import Compute, apply, assert_equal, captured, operators


def _x(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_equal_chains_are_merged() -> None:
    model, x = Compute(lambda x: x.relu().exp() * x.relu().exp().sin()), _x(2, 3)
    program = captured(model, x)
    apply(program, "common-subexpressions")
    assert operators(program) == {"relu": 1, "exp": 1, "sin": 1, "mul": 1}
    assert_equal(program, model, x, tolerance=0)


def test_other_literals_are_other_nodes() -> None:
    model, x = Compute(lambda x: x.sum(1, keepdim=True) * x.sum(1)[:, None] + (x + 1) * (x + True)), _x(2, 3)
    program = captured(model, x)
    apply(program, "common-subexpressions")
    assert operators(program)["sum"] == 2
    assert operators(program)["add"] == 3


def test_positional_and_named_arguments_are_equal() -> None:
    program = captured(Compute(lambda x: x.softmax(1) + x.softmax(dim=1, dtype=None)), _x(2, 3))
    apply(program, "common-subexpressions")
    assert operators(program) == {"softmax": 1, "add": 1}


def test_two_outputs_stay_two() -> None:
    model, x = Compute(lambda x: (x.relu(), x.relu())), _x(2, 3)
    program = captured(model, x)
    apply(program, "common-subexpressions")
    assert len(set(program.outputs)) == 2


def test_large_equal_weights_are_tied() -> None:
    weight = _x(200, 200)
    model, x = Compute(lambda x, a, b: (x @ a).relu() @ b, a=weight, b=weight.clone()), _x(2, 200)
    program = captured(model, x)
    apply(program, "common-subexpressions")
    assert len(program.weights) == 1
    assert_equal(program, model, x, tolerance=1e-3)


def test_almost_equal_and_small_weights_are_not() -> None:
    weight, other = _x(200, 200), _x(200, 200)
    other[-1, -1] += 1e-3
    bias = torch.zeros(200)
    model = Compute(lambda x, a, b, c, d: ((x @ a) + c).relu() @ b + d, a=weight, b=other, c=bias, d=bias.clone())
    program = captured(model, _x(2, 200))
    assert not apply(program, "common-subexpressions").taken
    assert len(program.weights) == 4
