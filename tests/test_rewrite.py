"""Patterns bind, commute, backtrack and refuse; replacements keep shapes, provenance and other readers."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tersor.context import Context
from tersor.errors import RewriteError
from tersor.program import Program
from tersor.refresh import refresh
from tersor.rewrite import Match, Rule, node_rule, rewrite
from tersor.rewrite_pattern import matches, trace
from tests.passes.harness import Compute, assert_equal, captured, operators, reasons

aten = torch.ops.aten


def _x() -> Tensor:
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


def _program(function: Any, **weights: Tensor) -> Program:
    return captured(Compute(function, **weights), _x())


def _count(program: Program, pattern: Any) -> int:
    traced = trace(pattern)
    return sum(1 for node in program.nodes for _ in matches(traced, node, program))


def test_same_wildcard_binds_the_same_node() -> None:
    square = lambda x: x * aten.exp(x)  # noqa: E731
    assert _count(_program(lambda x: x * x.exp()), square) == 1
    assert _count(_program(lambda x: x * x.sin().exp()), square) == 0


def test_same_wildcard_binds_equal_literals_and_weights() -> None:
    twice = lambda x, a: aten.add(x * a, a)  # noqa: E731
    assert _count(_program(lambda x: x * 3.0 + 3.0), twice) == 1
    assert _count(_program(lambda x: x * 3.0 + 4.0), twice) == 0
    assert _count(_program(lambda x, w: x * w + w, w=torch.ones(4)), twice) == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x.exp() + 1) * x.sin(),
        lambda x: (1 + x.exp()) * x.sin(),
        lambda x: x.sin() * (1 + x.exp()),
    ],
)
def test_commutative_operators_match_in_both_orders(function: Any) -> None:
    assert _count(_program(function), lambda x: aten.sin(x) * (aten.exp(x) + 1)) == 1


def test_backtracking_over_two_orders() -> None:
    """The outer product must be tried swapped although its first operand fits at first."""
    program = _program(lambda x: (x.exp() * x.sin()) * (x.exp() * x.cos()))
    pattern = lambda x, y, z: (aten.exp(x) * aten.cos(y)) * (aten.exp(z) * aten.sin(x))  # noqa: E731
    assert _count(program, pattern) >= 1


def test_order_matters_elsewhere() -> None:
    assert _count(_program(lambda x: x.exp() - x), lambda x: x - aten.exp(x)) == 0


def test_omitted_arguments_are_defaults() -> None:
    assert _count(_program(lambda x: torch.add(x, x.exp(), alpha=2)), lambda x: x + aten.exp(x)) == 0
    assert _count(_program(lambda x: torch.nn.functional.softplus(x)), lambda x: aten.softplus(x)) == 1
    assert _count(_program(lambda x: torch.nn.functional.softplus(x, 2)), lambda x: aten.softplus(x)) == 0
    assert _count(_program(lambda x: torch.div(x, x.exp(), rounding_mode="floor")), lambda x: x / aten.exp(x)) == 0


def test_literals_agree_to_the_precision_of_their_dtype() -> None:
    third = lambda x: x * (1 / 3)  # noqa: E731
    assert _count(_program(lambda x: x * 0.3333333), third) == 1
    assert _count(_program(lambda x: x * 0.3334), third) == 0
    assert _count(_program(lambda x, w: x * w, w=torch.tensor([1 / 3])), third) == 1
    assert _count(_program(lambda x, w: x * w, w=torch.tensor([1 / 3, 1, 1, 1])), third) == 0


def test_inner_node_that_is_read_elsewhere_does_not_match() -> None:
    def function(x: Tensor) -> Any:
        inner = x.exp()
        return inner.sin(), inner

    assert _count(_program(function), lambda x: aten.sin(aten.exp(x))) == 0


def test_replacement_keeps_values_and_provenance() -> None:
    rule = Rule("twice", lambda x: aten.sin(aten.exp(x)), lambda x: aten.exp.default(aten.sin.default(x)))
    program = _program(lambda x: x.exp().sin() + 1)
    context = Context()
    assert rewrite(program, context, [rule]) == 1
    assert [site.detail for site in context.taken] == ["twice"]
    exp = next(node for node in program.nodes if node.target is aten.exp.default)
    assert exp.args[0].target is aten.sin.default  # type: ignore[union-attr]
    assert "harness" in exp.meta["stack_trace"]
    assert str(exp.meta["val"].shape) == str(program.placeholders[0].meta["val"].shape)
    refresh(program)


def test_refusal_is_reported_once_and_empty_ones_never() -> None:
    loud = Rule("loud", lambda x: aten.exp(x), lambda x: aten.sin.default(x), lambda match: "not today")
    quiet = Rule("quiet", lambda x: aten.exp(x), lambda x: aten.sin.default(x), lambda match: "")
    program, context = _program(lambda x: x.exp() + x.exp()), Context()
    assert rewrite(program, context, [quiet, loud]) == 0
    assert len(context.skipped) == 2
    assert reasons(context) == "not today; not today"


def test_another_order_is_tried_after_a_refusal() -> None:
    def has_weight(match: Match) -> str | None:
        return None if match.weight(match["w"]) is not None else "no weight"

    rule = Rule("swap", lambda x, w: x * w, lambda x, w: aten.add.Tensor(x, w), has_weight)
    program, context = _program(lambda x, w: w * x, w=torch.ones(4)), Context()
    assert rewrite(program, context, [rule]) == 1
    assert not context.skipped


def test_replacement_of_another_shape_is_an_error() -> None:
    rule = Rule("sum", lambda x: aten.exp(x), lambda x: aten.sum.default(x))
    with pytest.raises(RewriteError, match="its replacement"):
        rewrite(_program(lambda x: x.exp()), Context(), [rule])


def test_rules_that_undo_each_other_are_an_error() -> None:
    rules = [
        Rule("there", lambda x: aten.exp(x), lambda x: aten.sin.default(x)),
        Rule("back", lambda x: aten.sin(x), lambda x: aten.exp.default(x)),
    ]
    with pytest.raises(RewriteError, match="no fixed point"):
        rewrite(_program(lambda x: x.exp()), Context(), rules)


def test_pattern_must_return_an_operator() -> None:
    with pytest.raises(TypeError, match="wanted the result of an operator"):
        trace(lambda x: x)


def test_new_weight_and_new_call() -> None:
    @node_rule("relu")
    def scaled(match: Match) -> Any:
        return lambda: match.call(aten.mul.Tensor, match.args[0], match.new_weight("scale", torch.full((4,), 2.0)))

    program = _program(lambda x: x.relu())
    assert rewrite(program, Context(), [scaled]) == 1
    assert operators(program) == {"mul": 1}
    assert_equal(program, Compute(lambda x: x * 2), _x())


def _copy_of(copies: dict[Any, Any], node: Any) -> Any:
    return copies.get(node, node)


def _tower(depth: int) -> Program:
    """A graph of many equal small blocks, each with something to rewrite."""

    def block(x: Tensor, w: Tensor) -> Tensor:
        y = (x @ w).view(-1, 3, 2, 2).transpose(1, 2).transpose(1, 2).reshape(-1, 3, 4)
        return x + y * torch.sigmoid(y)

    program = captured(Compute(block, w=torch.eye(4) / 4), _x(), dynamic=False)
    (x,), last = program.placeholders, program.outputs[0]
    body = [node for node in program.nodes if node.op == "call_function"]
    for _ in range(depth - 1):
        copies: dict[Any, Any] = {x: last}
        with program.graph.inserting_before(program.output_node):
            for node in body:
                copies[node] = program.graph.node_copy(node, partial(_copy_of, copies))
        last = copies[body[-1]]
    program.output_node.args = ((last,),)
    return refresh(program)


def test_time_grows_with_the_graph_not_its_square() -> None:
    from tersor.passes import EXACT
    from tersor.spec import parse

    seconds = []
    for depth in (60, 480):
        program = _tower(depth)
        assert len(program.graph.nodes) > 7 * depth
        start = time.process_time()
        for item in parse(",".join(EXACT)):
            item(program, Context())
        seconds.append(time.process_time() - start)
        assert operators(program)["silu"] == depth
    assert seconds[1] < 8 * 2.5 * seconds[0] + 0.5
