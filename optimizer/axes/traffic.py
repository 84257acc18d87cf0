"""What a program keeps in memory, what it moves and about how long it takes, by how many indices each axis keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from tersor.axes.analysis import Axes
from tersor.axes.flow import Value
from tersor.axes.terms import Term
from tersor.axes.work import Cost, Monomial, operations, weights
from tersor.cost.flops import is_product
from tersor.cost.operators import ALIASES
from tersor.cost.shapes import numel
from tersor.program import Program
from tersor.rewrite_values import key
from tersor.target import Target


def latency(program: Program, axes: Axes, target: Target) -> Cost:
    """Predicted time in units of one floating-point operation of the target: operations, and bytes that are moved.

    Both are added as if nothing overlapped, and a launch costs nothing, so it is the share that stays which means
    something, not the time itself.
    """
    work, moved = operations(program, axes), traffic(program, axes)
    scaled = [Monomial(item.amount * target.balance, item.terms) for item in moved.monomials]
    return Cost([*work.monomials, *scaled], work.fixed + moved.fixed * target.balance)


def traffic(program: Program, axes: Axes) -> Cost:
    """Bytes that one run reads and writes: each weight once, each tensor once per kernel that makes or takes it.

    An elementwise operator is taken to be fused into an operator whose result nobody else reads.
    """
    found = list(weights(program, axes))
    for node in program.nodes:
        if node.op != "call_function" or _is_alias(node):
            continue
        joined = _joined(node)
        for source in node.all_input_nodes:
            if source.op != "get_attr" and source is not joined:
                found += _tensors(_owner(source), axes)
        if joined is None:
            found += _tensors(node, axes)
    return Cost(found)


def memory(program: Program, axes: Axes) -> Cost:
    """Bytes of the weights and of all tensors that are alive at the busiest moment of a run."""
    alive = _busiest(program, axes)
    return Cost([*weights(program, axes), *(item for node in alive for item in _tensors(node, axes))])


def _busiest(program: Program, axes: Axes) -> list[fx.Node]:
    """The nodes whose results are alive at the moment when most bytes are."""
    last: dict[fx.Node, fx.Node] = {}
    for node in program.nodes:
        for source in node.all_input_nodes:
            last[_owner(source)] = node
    ends: dict[fx.Node, list[fx.Node]] = {}
    for source, node in last.items():
        ends.setdefault(node, []).append(source)
    alive: dict[fx.Node, float] = {}
    most, best = 0.0, list(alive)
    for node in program.nodes:
        if node.op in ("placeholder", "call_function") and not _is_alias(node):
            alive[node] = sum(item.amount for item in _tensors(node, axes))
        total = sum(alive.values())
        if total > most:
            most, best = total, list(alive)
        for source in ends.get(node, ()):
            alive.pop(source, None)
    return best


def _is_alias(node: fx.Node) -> bool:
    return key(node) in ALIASES or key(node) == "getitem"


def _joined(node: fx.Node) -> fx.Node | None:
    """The operator that an elementwise one works on while the result is at hand; None for a kernel of its own."""
    if is_product(node) or not _is_elementwise(node):
        return None
    sources = (source for source in node.all_input_nodes if source.op == "call_function" and len(source.users) == 1)
    return next((source for source in sources if not _is_alias(source)), None)


def _is_elementwise(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags


def _owner(node: fx.Node) -> fx.Node:
    """The node whose memory a view shows."""
    while _is_alias(node) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _tensors(node: fx.Node, axes: Axes) -> Iterator[Monomial]:
    return _monomials(node.meta.get("val"), axes.values.get(node.name))


def _monomials(value: Any, dims: Value) -> Iterator[Monomial]:
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _monomials(item, dims[index] if isinstance(dims, list) else None)
    elif isinstance(value, torch.Tensor) and (count := numel(value)):
        terms: tuple[Term, ...] = dims if isinstance(dims, tuple) else ()
        yield Monomial(float(count * value.element_size()), terms)
