"""What a flow rule works with: the dimensions of a node's arguments, and where it records what it found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from typing import Literal as OneOf

import torch
from torch import fx

from tersor.axes.select import Kept, length
from tersor.axes.terms import Axis, Misaligned, Size, Term, cut, pin, quotient, size, split, unify
from tersor.program import Program
from tersor.rewrite_values import argument, arguments

Dims: TypeAlias = tuple[Term, ...]
Value: TypeAlias = Dims | list[Any] | None
"""Dimensions of a tensor, a list of those for several results, None for what is no tensor."""


@dataclass(frozen=True)
class Literal:
    """An argument that states a size: what it becomes when indices are removed; None inside a list stays as it is."""

    node: str
    argument: str
    value: Callable[[Kept], Any]


@dataclass(frozen=True)
class Contraction:
    """A node that sums over a dimension of an operand: a removed index is one whose products are left out."""

    node: str
    operand: str
    dim: int
    term: Term


@dataclass(frozen=True)
class Span:
    """A node whose formula runs over a dimension as a whole, such as a normalisation or a mean."""

    node: str
    term: Term


@dataclass(frozen=True)
class Role:
    """What a dimension is to a node: "out" or "in" of a layer, "head" or "head-dim" of attention, "expert"..."""

    node: str
    kind: str
    term: Term


@dataclass(frozen=True)
class Meaning:
    """What the numbers in a tensor are to an axis, so that they are renumbered when it is cut.

    Attributes:
        kind: "position": each is an index into the axis; "count": how many positions name each index of it;
            "end": running totals of such counts; "passed": which of those lie at or before a number.
        term: the axis.
    """

    kind: OneOf["position", "count", "end", "passed"]
    term: Term


@dataclass
class Flow:
    """The state of an analysis, and the verbs of its rules."""

    program: Program
    values: dict[str, Value] = field(default_factory=dict)
    weights: dict[str, Dims] = field(default_factory=dict)
    literals: list[Literal] = field(default_factory=list)
    contractions: list[Contraction] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    roles: list[Role] = field(default_factory=list)
    meanings: dict[str, Meaning] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    here: str = ""
    """The node at work, for reasons."""

    def dims(self, argument: Any) -> Dims:
        """Dimensions of a tensor argument."""
        found = self.values[argument.name]
        assert isinstance(found, tuple), f"{argument} is no tensor"
        return found

    def tie(self, left: Term, right: Term) -> None:
        """Make two dimensions the same thing; where their boundaries cross, both stay whole."""
        try:
            unify(left, right)
        except Misaligned:
            self._keep(left, right)

    def split(self, term: Term, fast: Size | None) -> tuple[Term, Term]:
        """A dimension as (slow, fast) factors; where a boundary is in the way, it stays whole."""
        try:
            return split(term, 1 if fast is None else fast)
        except Misaligned:
            self._keep(term)
            return self._kept(quotient(size(term), fast or 1) or 1), self._kept(fast or 1)

    def cut(self, term: Term, at: Size) -> tuple[Term, Term]:
        """A dimension as (head, tail); where a boundary is in the way, it stays whole."""
        try:
            return cut(term, at)
        except Misaligned:
            self._keep(term)
            return self._kept(at), self._kept(size(term) - at)

    def _keep(self, *terms: Term) -> None:
        for term in terms:
            pin(term, f"boundaries that cross at {self.here}")

    def _kept(self, size: Size) -> Axis:
        return Axis(size, f"boundaries that cross at {self.here}")

    def literal(self, node: fx.Node, argument: str, value: Callable[[Kept], Any]) -> None:
        """Record an argument to rewrite."""
        self.literals.append(Literal(node.name, argument, value))

    def sizes(self, node: fx.Node, argument: str, terms: Sequence[Term]) -> None:
        """Record a list of sizes, one per term; entries that are -1 or computed in the graph stay."""
        stated = [isinstance(item, int) and item != -1 for item in arguments(node)[argument]]

        def value(kept: Kept) -> list[Any]:
            return [length(term, kept) if known else None for known, term in zip(stated, terms, strict=True)]

        self.literal(node, argument, value)

    def contract(self, node: fx.Node, operand: fx.Node, dim: int, other: Term | None = None) -> None:
        """``node`` sums over a dimension of ``operand``, which is the same thing as ``other``."""
        term = self.dims(operand)[dim]
        if other is not None:
            self.tie(term, other)
        self.contractions.append(Contraction(node.name, operand.name, dim, term))

    def span(self, node: fx.Node, term: Term) -> None:
        """``node`` computes over a whole dimension."""
        self.spans.append(Span(node.name, term))

    def role(self, node: fx.Node, kind: str, term: Term) -> None:
        """Say what a dimension is to a node."""
        self.roles.append(Role(node.name, kind, term))

    def fixed(self, node: fx.Node, reason: str) -> Value:
        """Pin everything that goes in and give results whose every dimension is pinned."""
        for source in node.all_input_nodes:
            pin_value(self.values.get(source.name), reason)
        return fresh_value(node.meta.get("val"), reason)


def dimension(size: int | torch.SymInt) -> Size:
    """A size of a fake tensor as a number or an expression."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression) if expression.is_Integer else expression


def shape(value: torch.Tensor) -> tuple[Size, ...]:
    """The sizes of a fake tensor."""
    return tuple(dimension(item) for item in value.shape)


def fresh(size: Size, reason: str = "") -> Axis:
    """A new axis; one whose size differs from call to call is never cut."""
    return Axis(size, reason or ("" if isinstance(size, int) else "its size differs from call to call"))


def fresh_value(value: Any, reason: str = "") -> Value:
    """New axes for every dimension of a fake value."""
    if isinstance(value, torch.Tensor):
        return tuple(fresh(size, reason) for size in shape(value))
    if isinstance(value, list | tuple):
        return [fresh_value(item, reason) for item in value]
    return None


def pin_value(value: Value, reason: str) -> None:
    """Pin every dimension of a value."""
    if isinstance(value, list):
        for item in value:
            pin_value(item, reason)
    elif value is not None:
        for term in value:
            pin(term, reason)


def where(node: fx.Node, what: str) -> str:
    """A reason that names a node."""
    return f"{what} at {node.name}"


Rule: TypeAlias = Callable[[fx.Node, Flow], Value]

RULES: dict[str, Rule] = {}
"""Flow rules by operator name."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a flow rule for operators, by their names without overload."""

    def register(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, f"two flow rules for {name}"
            RULES[name] = function
        return function

    return register


def dim_of(node: fx.Node, rank: int) -> int:
    """The dimension that a node's ``dim`` argument means, counted from the front."""
    return int(argument(node, "dim")) % max(rank, 1)
