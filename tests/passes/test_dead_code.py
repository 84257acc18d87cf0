"""Nodes and weights that no output needs are dropped; inputs stay."""

from __future__ import annotations

import torch

from tersor.context import Context
from tersor.passes.dead_code import DeadCode
from tests.passes.harness import Compute, apply, assert_equal, captured, operators


def test_unused_chain_and_its_weight() -> None:
    model, x = Compute(lambda x, w: x.relu(), w=torch.ones(3)), torch.randn(2, 3)
    program = captured(model, x)
    (relu,) = program.outputs
    with program.graph.inserting_before(relu):
        weight = program.graph.get_attr(program.add_weight("spare", torch.ones(3)))
        weight.meta["val"] = relu.meta["val"][0]
        first = program.graph.call_function(torch.ops.aten.exp.default, (weight,))
        program.graph.call_function(torch.ops.aten.sin.default, (first,))
    context = apply(program, "dead-code")
    assert operators(program) == {"relu": 1}
    assert program.weights == {}
    assert len(context.taken) == 3
    assert_equal(program, model, x)


def test_checks_of_dtypes_are_dropped() -> None:
    program = captured(Compute(lambda x: x.double().relu()), torch.randn(2, 3))
    assert operators(program)["_assert_tensor_metadata"] == 1
    apply(program, "dead-code")
    assert operators(program)["_assert_tensor_metadata"] == 0


def test_inputs_stay() -> None:
    program = captured(Compute(lambda x: torch.ones(3)), torch.randn(2, 3))
    apply(program, "dead-code")
    assert len(program.placeholders) == 1


def test_declined_site_stays() -> None:
    program = captured(Compute(lambda x: x.double().relu()), torch.randn(2, 3))
    DeadCode()(program, Context(limit=lambda site: False))
    assert operators(program)["_assert_tensor_metadata"] == 1
