"""Terms: what the dimensions of a tensor are made of, and how two of them are made one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import sympy

from tersor.errors import TersorError

Size: TypeAlias = int | sympy.Expr


class Misaligned(TersorError):
    """Two dimensions cannot be cut along common boundaries."""


class Axis:
    """An atomic axis, until something shows that it is a product, a concatenation or another axis.

    Attributes:
        size: its length; an expression where it differs from call to call.
        bound: the term that it turned out to be.
        pin: why none of its indices may be removed; empty where they may.
        least: so many indices stay at least.
        ordered: whether those that stay must keep their order.
        number: in order of creation, for stable names.
    """

    __slots__ = ("bound", "least", "number", "ordered", "pin", "size")
    _count = 0

    def __init__(self, size: Size, pin: str = "") -> None:
        Axis._count += 1
        self.size, self.pin, self.number = size, pin, Axis._count
        self.bound: Term | None = None
        self.least, self.ordered = 1, False

    def __repr__(self) -> str:
        return f"a{self.number}[{self.size}]"


@dataclass(frozen=True, slots=True)
class Product:
    """A dimension laid out as several, the last one varying fastest."""

    factors: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Cat:
    """A dimension laid out as several one after another."""

    parts: tuple[Term, ...]


Term: TypeAlias = Axis | Product | Cat

UNIT = Product(())
"""A dimension of size 1: there is nothing to remove from it."""


def resolve(term: Term) -> Term:
    """The term with everything known put in, products and concatenations flattened."""
    if isinstance(term, Axis):
        if term.bound is not None:
            term.bound = resolve(term.bound)
            return term.bound
        return UNIT if term.size == 1 else term
    if isinstance(term, Product):
        return product(term.factors)
    return concatenation(term.parts)


def product(factors: Iterable[Term]) -> Term:
    """A normalised product: factors of size 1 dropped, nested products flattened."""
    flat: list[Term] = []
    for factor in map(resolve, factors):
        flat.extend(factor.factors if isinstance(factor, Product) else (factor,))
    return flat[0] if len(flat) == 1 else Product(tuple(flat))


def concatenation(parts: Iterable[Term]) -> Term:
    """A normalised concatenation: empty parts dropped, nested ones flattened."""
    flat: list[Term] = []
    for part in map(resolve, parts):
        flat.extend(part.parts if isinstance(part, Cat) else (part,) if size(part) != 0 else ())
    return flat[0] if len(flat) == 1 else Cat(tuple(flat))


def size(term: Term) -> Size:
    """The length of a dimension."""
    if isinstance(term, Axis):
        return term.size if term.bound is None else size(term.bound)
    if isinstance(term, Product):
        total: Size = 1
        for factor in term.factors:
            total = total * size(factor)
        return total
    total = 0
    for part in term.parts:
        total = total + size(part)
    return total


def children(term: Product | Cat) -> tuple[Term, ...]:
    """What a term is directly made of."""
    return term.factors if isinstance(term, Product) else term.parts


def leaves(term: Term) -> Iterator[Axis]:
    """The atomic axes of a term; one that occurs twice is given twice."""
    term = resolve(term)
    if isinstance(term, Axis):
        yield term
        return
    for child in children(term):
        yield from leaves(child)


def pin(term: Term, reason: str) -> None:
    """Forbid removing anything from a term; the first reason stays."""
    for axis in leaves(term):
        axis.pin = axis.pin or reason


def limit(term: Term, least: int = 1, ordered: bool = False) -> None:
    """Demand that at least so many indices stay of each axis of a term, and that they keep their order."""
    for axis in leaves(term):
        axis.least = max(axis.least, least)
        axis.ordered = axis.ordered or ordered


def same(left: Size, right: Size) -> bool:
    """Whether two sizes are equal whatever the symbols are.

    >>> s = sympy.Symbol("s")
    >>> same(2 * s + s, 3 * s), same(s, 4)
    (True, False)
    """
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    return bool(left == right or sympy.expand(left - right) == 0)


def quotient(whole: Size, part: Size) -> Size | None:
    """``whole / part`` where that is a whole number whatever the symbols are, else None.

    >>> quotient(12, 4), quotient(6, 4), quotient(4 * sympy.Symbol("s"), 2)
    (3, None, 2*s)
    """
    if isinstance(whole, int) and isinstance(part, int):
        return whole // part if part and whole % part == 0 else None
    ratio = sympy.cancel(sympy.sympify(whole) / part)
    if ratio.is_Integer:
        return int(ratio)
    numerator, denominator = ratio.as_numer_denom()
    return ratio if denominator == 1 and numerator.free_symbols else None


def bind(axis: Axis, term: Term) -> None:
    """Record that an unbound axis is ``term``; its pin and limits pass on."""
    if any(leaf is axis for leaf in leaves(term)):
        raise Misaligned(f"axis {axis} would contain itself", "the sizes contradict each other")
    if axis.pin:
        pin(term, axis.pin)
    limit(term, axis.least, axis.ordered)
    axis.bound = term


def unify(left: Term, right: Term) -> None:
    """Make two dimensions the same thing; raises Misaligned where their boundaries cross."""
    left, right = resolve(left), resolve(right)
    if left is right or left == right:
        return
    if not same(size(left), size(right)):
        raise Misaligned(f"sizes {size(left)} and {size(right)} differ", "dimensions of equal size")
    if isinstance(left, Axis) or isinstance(right, Axis):
        _bind_either(left, right)
    elif isinstance(left, Product) and isinstance(right, Product):
        _unify_products(list(left.factors), list(right.factors))
    elif isinstance(left, Cat):
        _unify_parts(left, right)
    elif isinstance(right, Cat):
        _unify_parts(right, left)


def _bind_either(left: Term, right: Term) -> None:
    """The younger axis becomes the older one, so that names do not depend on the order of use."""
    if isinstance(left, Axis) and isinstance(right, Axis):
        young, old = (left, right) if left.number > right.number else (right, left)
        bind(young, old)
    elif isinstance(left, Axis):
        bind(left, right)
    elif isinstance(right, Axis):
        bind(right, left)


def _unify_products(left: list[Term], right: list[Term]) -> None:
    while left and right:
        last, other = left.pop(), right.pop()
        if same(size(last), size(other)):
            unify(last, other)
        elif quotient(size(other), size(last)) is not None:
            rest, tail = split(other, size(last))
            unify(last, tail)
            right.extend(_factors(rest))
        elif quotient(size(last), size(other)) is not None:
            rest, tail = split(last, size(other))
            unify(tail, other)
            left.extend(_factors(rest))
        else:
            raise Misaligned(f"factors {size(last)} and {size(other)} do not divide", "dimensions that nest")
        left, right = _factors(product(left)), _factors(product(right))


def _factors(term: Term) -> list[Term]:
    term = resolve(term)
    return list(term.factors) if isinstance(term, Product) else [term]


def _unify_parts(parts: Cat, other: Term) -> None:
    """Walk along a concatenation, cutting the other term at its boundaries, or it at the other's."""
    rest: Term = other
    waiting = list(reversed(parts.parts))
    while waiting:
        part = resolve(waiting.pop())
        head = _first(rest)
        if not waiting:
            unify(part, rest)
        elif isinstance(head, Axis | Product | Cat) and _shorter(size(head), size(part)):
            front, back = cut(part, size(head))
            unify(front, head)
            waiting.append(back)
            rest = cut(rest, size(head))[1]
        else:
            front, rest = cut(rest, size(part))
            unify(part, front)


def _first(term: Term) -> Term:
    term = resolve(term)
    return term.parts[0] if isinstance(term, Cat) else term


def _shorter(left: Size, right: Size) -> bool:
    return isinstance(left, int) and isinstance(right, int) and left < right


def split(term: Term, fast: Size) -> tuple[Term, Term]:
    """``term`` as (slow, fast) factors, the fast one of the given size; refines axes where needed."""
    term = resolve(term)
    slow = quotient(size(term), fast)
    if slow is None:
        raise Misaligned(f"a dimension of {size(term)} is not a multiple of {fast}", "a size that divides")
    if slow == 1:
        return UNIT, term
    if fast == 1:
        return term, UNIT
    if isinstance(term, Axis):
        rest, last = Axis(slow), Axis(fast)
        bind(term, Product((rest, last)))
        return rest, last
    return _split_product(term, fast) if isinstance(term, Product) else _split_parts(term, fast)


def _split_product(term: Product, fast: Size) -> tuple[Term, Term]:
    *front, last = term.factors
    if same(size(last), fast):
        return product(front), last
    if (more := quotient(fast, size(last))) is not None:
        rest, middle = split(product(front), more)
        return rest, product((middle, last))
    rest, tail = split(last, fast)
    return product((*front, rest)), tail


def _split_parts(term: Cat, fast: Size) -> tuple[Term, Term]:
    pieces = [split(part, fast) for part in term.parts]
    for _, tail in pieces[1:]:
        unify(pieces[0][1], tail)
    return concatenation(rest for rest, _ in pieces), resolve(pieces[0][1])


def cut(term: Term, at: Size) -> tuple[Term, Term]:
    """``term`` as (head, tail) of a concatenation, the head of the given size; refines axes where needed."""
    term = resolve(term)
    total = size(term)
    if at == 0:
        return concatenation(()), term
    if same(at, total):
        return term, concatenation(())
    if isinstance(term, Axis):
        head, tail = Axis(at), Axis(total - at)
        bind(term, Cat((head, tail)))
        return head, tail
    return _cut_parts(term.parts, at) if isinstance(term, Cat) else _cut_product(term, at)


def _cut_parts(parts: Sequence[Term], at: Size) -> tuple[Term, Term]:
    for index, part in enumerate(parts):
        length = size(part)
        if same(length, at):
            return concatenation(parts[: index + 1]), concatenation(parts[index + 1 :])
        if _shorter(at, length):
            head, tail = cut(part, at)
            return concatenation((*parts[:index], head)), concatenation((tail, *parts[index + 1 :]))
        at = at - length
    raise Misaligned(f"no boundary at {at}", "a boundary inside the dimension")


def _cut_product(term: Product, at: Size) -> tuple[Term, Term]:
    first, *rest = term.factors
    inner = product(rest)
    rows = quotient(at, size(inner))
    if rows is None:
        raise Misaligned(f"a boundary at {at} crosses rows of {size(inner)}", "a boundary between rows")
    head, tail = cut(first, rows)
    return product((head, inner)), product((tail, inner))
