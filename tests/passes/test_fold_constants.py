"""What depends on weights only is computed once; growth, randomness and tied weights are refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.passes.harness import Compute, apply, assert_equal, captured, operators, reasons


def _x(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_chain_becomes_one_weight() -> None:
    model, x = Compute(lambda x, w: x + (w.t() * 2).exp().sum(0), w=_x(5, 3)), _x(2, 5)
    program = captured(model, x)
    context = apply(program, "fold-constants")
    assert operators(program) == {"add": 1}
    assert [node.target for node in program.nodes if node.op == "get_attr"] == list(program.weights)
    assert len(context.taken) == 1
    assert_equal(program, model, x)


def test_tables_made_of_literals_are_weights() -> None:
    def function(x: Tensor) -> Tensor:
        angles = torch.arange(4.0)[:, None] * torch.arange(3.0)[None] / 10
        return x * torch.cat([angles.sin(), angles.cos()], -1)

    model, x = Compute(function), _x(2, 4, 6)
    program = captured(model, x)
    apply(program, "fold-constants")
    assert operators(program) == {"mul": 1}
    assert_equal(program, model, x)


def test_split_of_a_weight() -> None:
    model, x = Compute(lambda x, w: torch.mul(*w.split(2)) + x, w=_x(4, 3)), _x(2, 2, 3)
    program = captured(model, x)
    apply(program, "fold-constants")
    assert operators(program) == {"add": 1}
    assert_equal(program, model, x)


def test_large_result_is_not_stored() -> None:
    model, x = Compute(lambda x, w: x + w.repeat(1000, 1), w=_x(1, 1000)), _x(2, 1000, 1000)
    program = captured(model, x)
    context = apply(program, "fold-constants")
    assert operators(program) == {"repeat": 1, "add": 1}
    assert "more than it frees" in reasons(context)
    assert program.parameter_bytes() == 4000
    apply(program, "fold-constants{limit_bytes=5000000}")
    assert operators(program) == {"add": 1}


def test_small_end_of_a_large_chain_is_folded() -> None:
    model, x = Compute(lambda x, w: x + w.expand(1000, 1000).relu().sum(0), w=_x(1, 1000)), _x(2, 1000)
    program = captured(model, x)
    apply(program, "fold-constants{limit_bytes=5000000}")
    assert operators(program) == {"add": 1}
    assert program.parameter_bytes() == 4000


def test_tied_weight_counts_as_growth() -> None:
    model, x = Compute(lambda x, w: (x + w) * w.exp(), w=_x(600, 600)), _x(2, 600, 600)
    program = captured(model, x)
    assert "more than it frees" in reasons(apply(program, "fold-constants"))
    assert operators(program)["exp"] == 1


def test_random_numbers_are_left_alone() -> None:
    program = _random_program()
    apply(program, "fold-constants,common-subexpressions")
    assert operators(program)["rand"] == 2


def _random_program() -> Any:
    program = captured(Compute(lambda x, w: x + w.exp(), w=_x(3)), _x(2, 3), dynamic=False)
    (add,) = program.outputs
    with program.graph.inserting_before(add):
        first = program.graph.call_function(torch.ops.aten.rand.default, ([3],))
        second = program.graph.call_function(torch.ops.aten.rand.default, ([3],))
    for node in (first, second):
        node.meta["val"] = add.meta["val"][0]
    add.args = (first, second)
    return program


def test_output_that_is_constant_is_kept() -> None:
    model, x = Compute(lambda x, w: (x, w * 2), w=_x(3)), _x(2, 3)
    program = captured(model, x)
    apply(program, "fold-constants")
    torch.testing.assert_close(program(x)[1], model(x)[1])
    assert program.outputs[1].op == "call_function"


def test_known_sizes_are_literals() -> None:
    model, x = Compute(lambda x: x.reshape(x.shape[0], x.shape[1] * x.shape[2])), _x(2, 3, 4)
    program = captured(model, x)
    apply(program, "fold-constants")
    assert operators(program)["operator.mul"] == 0
    assert_equal(program, model, x)
