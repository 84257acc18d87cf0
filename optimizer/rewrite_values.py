"""What is known of a node before it runs: operator name, arguments by schema, shape, dtype, constant value."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from tersor.program import Program

_PATTERN_OPERATORS = {
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.truediv: "div",
    operator.neg: "neg",
    operator.pow: "pow",
    operator.matmul: "matmul",
    operator.getitem: "getitem",
}

ASSERTIONS = frozenset(
    {
        "_assert_tensor_metadata",
        "_assert_async",
        "_assert_scalar",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
    }
)
"""Operators that only check; they return nothing."""


def key(node: Any) -> str:
    """The operator's name without its overload: ``"add"`` for aten.add.Tensor and aten.add.Scalar.

    Operators outside ATen keep their namespace, Python functions on sizes are ``"operator.mul"``; inputs, weights and
    anything that is no node have the empty name.
    """
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return ""
    return _target_key(node.target)


@functools.cache
def _target_key(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        name = target.overloadpacket.__name__
        return name if target.namespace == "aten" else f"{target.namespace}::{name}"
    if isinstance(target, torch._ops.OpOverloadPacket):
        return str(target.__name__)
    if target is operator.getitem:
        return "getitem"
    return f"operator.{getattr(target, '__name__', target)}"


def pattern_key(node: fx.Node) -> str:
    """As `key`, for a node of a traced pattern, where Python operators stand for ATen's."""
    return _PATTERN_OPERATORS.get(node.target) or key(node)  # type: ignore[arg-type]


@functools.cache
def _schema(target: Any) -> tuple[tuple[str, Any], ...]:
    if not isinstance(target, torch._ops.OpOverload):
        return ()
    return tuple((item.name, item.default_value) for item in target._schema.arguments)


def arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments of a call by schema name, in order, defaults filled in."""
    schema = _schema(node.target)
    if not schema:
        return {str(position): value for position, value in enumerate(node.args)} | dict(node.kwargs)
    bound = {name: node.args[i] if i < len(node.args) else default for i, (name, default) in enumerate(schema)}
    bound.update(node.kwargs)
    return bound


def defaults(node: fx.Node) -> dict[str, Any]:
    """The default of each argument of a call by schema name, None where it has none."""
    return dict(_schema(node.target))


def positional(node: fx.Node) -> tuple[Any, ...]:
    """The positional arguments as they stand."""
    return node.args


def argument(node: fx.Node, name: str) -> Any:
    """One argument of a call by its schema name."""
    return arguments(node)[name]


def value(node: Any) -> Any:
    """The fake tensor, symbolic size or literal that an argument stands for."""
    return node.meta.get("val") if isinstance(node, fx.Node) else node


def tensor(node: Any) -> torch.Tensor | None:
    """The fake tensor of a node, or None where it is no tensor."""
    found = node.meta.get("val") if isinstance(node, fx.Node) else None
    return found if isinstance(found, torch.Tensor) else None


def fake(node: Any) -> torch.Tensor:
    """The fake tensor of a node that is known to be a tensor."""
    found = tensor(node)
    assert found is not None, f"{node} is no tensor"
    return found


def known(size: Any) -> int | None:
    """A size as a number, or None where it differs from call to call.

    >>> known(3)
    3
    """
    if isinstance(size, int):
        return size
    if isinstance(size, torch.SymInt):
        expression = size.node.expr
        return int(expression) if expression.is_Integer else None
    return None


def same_size(a: Any, b: Any) -> bool:
    """Whether two sizes are equal for every input; never guards on a symbol."""
    a, b = value(a), value(b)
    if known(a) is not None or known(b) is not None:
        return known(a) == known(b)
    if not isinstance(a, torch.SymInt) or not isinstance(b, torch.SymInt):
        return False
    # The second test also proves sizes equal that are written differently, at the price of symbolic algebra.
    return bool(a.node.expr == b.node.expr) or bool(statically_known_true(a == b))


def same_shape(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two shapes are equal for every input."""
    return len(a) == len(b) and all(map(same_size, a, b))


def clashing(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two shapes differ for certain: in rank, or in a size at the example.

    Sizes that are equal only by what the model demands of its inputs look different as expressions.
    """
    return len(a) != len(b) or any(_at_example(x) != _at_example(y) for x, y in zip(a, b, strict=True))


def _at_example(size: Any) -> Any:
    return size.node.hint if isinstance(size, torch.SymInt) and size.node.has_hint() else size


def same_type(a: Any, b: Any) -> bool:
    """Whether two nodes are tensors of equal shape and dtype for every input."""
    first, second = tensor(a), tensor(b)
    return (
        first is not None
        and second is not None
        and first.dtype == second.dtype
        and same_shape(first.shape, second.shape)
    )


def positive(dim: int, rank: int) -> int:
    """An axis counted from the front.

    >>> positive(-1, 4)
    3
    """
    return dim % rank if rank else 0


def scalar(program: Program, node: Any) -> float | int | bool | None:
    """The number that a literal or a one-element weight holds, or None."""
    if isinstance(node, int | float) and not isinstance(node, torch.SymInt):
        return node
    weight = program.weight(node)
    if weight is None or weight.numel() != 1 or weight.is_complex() or weight.is_quantized:
        return None
    found: float | int | bool = weight.item()
    return found


def is_floating(node: Any) -> bool:
    """Whether a node is a tensor of a floating dtype."""
    found = tensor(node)
    return found is not None and found.dtype.is_floating_point
