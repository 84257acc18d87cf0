"""What a program costs as a function of how many indices each axis keeps: operations and parameters, in closed form."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import fx

from tersor.axes.analysis import Axes
from tersor.axes.flow import Value
from tersor.axes.terms import Axis, Product, Term, leaves, resolve, size
from tersor.cost.flops import flops, is_product
from tersor.program import Program
from tersor.rewrite_values import key

Counts = Mapping[Axis, int]
"""How many indices of each axis stay; all where it is missing."""


@dataclass(frozen=True)
class Monomial:
    """An amount that is proportional to the length of each of some dimensions."""

    amount: float
    terms: tuple[Term, ...]

    def at(self, counts: Counts) -> float:
        """The amount when only so many indices stay."""
        value = self.amount
        for term in self.terms:
            value *= share(term, counts)
        return value


@dataclass
class Cost:
    """A sum of monomials that knows which of them an axis changes.

    Attributes:
        monomials: the parts.
        fixed: what no axis changes.
    """

    monomials: list[Monomial]
    fixed: float = 0.0
    by_axis: dict[Axis, list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for index, item in enumerate(self.monomials):
            for axis in {axis for term in item.terms for axis in leaves(term)}:
                self.by_axis[axis].append(index)

    def total(self, counts: Counts | None = None) -> float:
        """The sum when only so many indices stay."""
        return self.fixed + sum(item.at(counts or {}) for item in self.monomials)

    def saving(self, axis: Axis, fewer: int, counts: Counts) -> float:
        """What is saved by keeping ``fewer`` indices of an axis than ``counts`` says."""
        have = counts.get(axis, int(axis.size))
        after = {**counts, axis: have - fewer}
        return sum(self.monomials[i].at(counts) - self.monomials[i].at(after) for i in self.by_axis.get(axis, ()))


def share(term: Term, counts: Counts) -> float:
    """What part of a dimension stays."""
    term = resolve(term)
    if isinstance(term, Axis):
        return counts[term] / int(term.size) if term in counts else 1.0
    if isinstance(term, Product):
        return math.prod(share(factor, counts) for factor in term.factors)
    whole = size(term)
    if not isinstance(whole, int) or not whole:
        return 1.0
    return sum(share(part, counts) * int(size(part)) for part in term.parts) / whole


def operations(program: Program, axes: Axes) -> Cost:
    """Floating-point operations of products, convolutions and attention at the example sizes, by what stays."""
    sums: dict[str, list[Term]] = defaultdict(list)
    for role in axes.roles:
        if role.kind == "in":
            sums[role.node].append(role.term)
    for item in axes.contractions:
        if not sums.get(item.node):
            sums[item.node].append(item.term)
    found: list[Monomial] = []
    for node in program.nodes:
        if is_product(node) and (amount := flops(node)):
            found.extend(_monomials(node, float(amount), axes.values[node.name], sums[node.name]))
    return Cost([item for item in found if _touchable(item)], sum(i.amount for i in found if not _touchable(i)))


def _monomials(node: fx.Node, amount: float, made: Value, sums: Iterable[Term]) -> list[Monomial]:
    dims = made if isinstance(made, tuple) else ()
    if key(node) != "scaled_dot_product_attention":
        return [Monomial(amount, (*dims, *sums))]
    inner = list(sums)
    scores, values = (float(size(term)) if isinstance(size(term), int) else 1.0 for term in (inner[0], dims[-1]))
    part = scores / (scores + values)
    return [Monomial(amount * part, (*dims[:-1], *inner)), Monomial(amount * (1 - part), dims)]


def _touchable(item: Monomial) -> bool:
    return any(not axis.pin for term in item.terms for axis in leaves(term))


def parameters(program: Program, axes: Axes) -> Cost:
    """Numbers in the weights, tied ones once, by what stays."""
    return Cost(weights(program, axes, in_bytes=False))


def weights(program: Program, axes: Axes, in_bytes: bool = True) -> list[Monomial]:
    """The size of each weight, tied ones once, by what stays."""
    seen: dict[int, Monomial] = {}
    for name, dims in axes.weights.items():
        value = program.weights.get(name)
        if value is not None:
            amount = value.numel() * (value.element_size() if in_bytes else 1)
            seen.setdefault(id(dims), Monomial(float(amount), dims))
    return list(seen.values())
