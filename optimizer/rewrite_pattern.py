"""Matching of a traced pattern against a graph: wildcards, either order, literals in weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tersor.program import Program
from tersor.rewrite_values import arguments, defaults, key, pattern_key, scalar, tensor

COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum", "eq", "ne", "logical_and", "logical_or"})

Bindings = dict[fx.Node, Any]


@dataclass(frozen=True, eq=False)
class Pattern:
    """A traced pattern function.

    Attributes:
        root: the node that the function returns.
        wildcards: its parameters, by name.
        calls: its operator nodes except the root.
        key: the root's operator name, see `tersor.rewrite_values.key`.
    """

    root: fx.Node
    wildcards: dict[str, fx.Node]
    calls: tuple[fx.Node, ...]
    key: str
    graph: fx.Graph


@functools.cache
def trace(function: Callable[..., Any]) -> Pattern:
    """The pattern that a Python function over torch.ops.aten and Python's operators describes.

    >>> trace(lambda x: x * torch.ops.aten.sigmoid(x)).key
    'mul'
    """
    graph = fx.symbolic_trace(function).graph
    root = next(iter(reversed(graph.nodes))).args[0]
    if not isinstance(root, fx.Node) or root.op != "call_function":
        raise TypeError(f"pattern {function.__name__} returns {root}, wanted the result of an operator")
    wildcards = {str(node.target): node for node in graph.find_nodes(op="placeholder")}
    calls = tuple(node for node in graph.nodes if node.op == "call_function" and node is not root)
    return Pattern(root, wildcards, calls, pattern_key(root), graph)


def matches(pattern: Pattern, node: fx.Node, program: Program) -> Iterator[Bindings]:
    """Each way in which the pattern's root can stand for ``node``, with no interior node used elsewhere."""
    for bound in _node(pattern.root, node, {}, program):
        inside = {bound[call] for call in pattern.calls if call in bound} | {node}
        if all(user in inside for call in inside if call is not node for user in call.users):
            yield bound


def _node(wanted: fx.Node, got: Any, bound: Bindings, program: Program) -> Iterator[Bindings]:
    if wanted in bound:
        if equal(bound[wanted], got):
            yield bound
        return
    if wanted.op == "placeholder":
        yield {**bound, wanted: got}
        return
    name = pattern_key(wanted)
    if key(got) != name:
        return
    given = list(arguments(got).items())
    if len(wanted.args) > len(given):
        return
    pairs = _pairs(wanted, given, defaults(got))
    if pairs is None:
        return
    yield from _all(pairs, {**bound, wanted: got}, program)
    if name in COMMUTATIVE:
        (first, a), (second, b), *rest = pairs
        yield from _all([(first, b), (second, a), *rest], {**bound, wanted: got}, program)


def _pairs(wanted: fx.Node, given: list[tuple[str, Any]], default: dict[str, Any]) -> list[tuple[Any, Any]] | None:
    """(pattern argument, graph argument) pairs; None where an argument that the pattern omits is not its default."""
    pairs: list[tuple[Any, Any]] = list(zip(wanted.args, (item for _, item in given), strict=False))
    named = dict(given)
    for name, item in wanted.kwargs.items():
        if name not in named:
            return None
        pairs.append((item, named[name]))
    for name, item in given[len(wanted.args) :]:
        if name not in wanted.kwargs and (isinstance(item, fx.Node) or item != default.get(name)):
            return None
    return pairs


def _all(pairs: list[tuple[Any, Any]], bound: Bindings, program: Program) -> Iterator[Bindings]:
    if not pairs:
        yield bound
        return
    (wanted, got), *rest = pairs
    for found in _argument(wanted, got, bound, program):
        yield from _all(rest, found, program)


def _argument(wanted: Any, got: Any, bound: Bindings, program: Program) -> Iterator[Bindings]:
    if isinstance(wanted, fx.Node):
        yield from _node(wanted, got, bound, program)
    elif isinstance(wanted, list | tuple):
        if isinstance(got, list | tuple) and len(got) == len(wanted):
            yield from _all(list(zip(wanted, got, strict=True)), bound, program)
    elif isinstance(wanted, bool) or not isinstance(wanted, int | float):
        if wanted == got:
            yield bound
    elif _same_number(wanted, got, program):
        yield bound


def _same_number(wanted: float, got: Any, program: Program) -> bool:
    """Literals agree to the precision with which an exporter in the tensor's dtype may have rounded them."""
    number = scalar(program, got)
    if number is None or isinstance(number, bool):
        return False
    weight = tensor(got)
    half = weight is not None and weight.dtype in (torch.float16, torch.bfloat16)
    return math.isclose(wanted, number, rel_tol=4e-3 if half else 2e-6)


def equal(a: Any, b: Any) -> bool:
    """Whether two arguments are the same: the same node, the same weight, or equal literals."""
    if isinstance(a, fx.Node) or isinstance(b, fx.Node):
        if a is b:
            return True
        both = isinstance(a, fx.Node) and isinstance(b, fx.Node)
        return both and a.op == b.op == "get_attr" and a.target == b.target
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and bool(a == b)
