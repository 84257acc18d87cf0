"""Axes of the tensors around a softmax as products of atoms: followed forwards and back through views."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy
from torch import fx

from tersor.passes._views import permutation
from tersor.program import Size
from tersor.rewrite_values import arguments, fake, key, known, positive, tensor

COPIES = frozenset({"clone", "contiguous", "alias", "detach", "lift_fresh_copy", "dropout"})
CASTS = frozenset({"_to_copy", "to", "type_as"})
_RESHAPES = frozenset({"reshape", "view", "_unsafe_view", "squeeze", "unsqueeze", "flatten", "unflatten"})


@dataclass(eq=False)
class Atom:
    """An axis, or a factor of one; splitting it refines every layout that names it."""

    size: Size
    parts: tuple[Atom, ...] = ()

    def leaves(self) -> tuple[Atom, ...]:
        """The atoms that it is made of now."""
        return tuple(leaf for part in self.parts for leaf in part.leaves()) if self.parts else (self,)


Axis: TypeAlias = tuple[Atom, ...]
Layout: TypeAlias = tuple[Axis, ...]
"""For each axis of a tensor its atoms, the slowest first; an axis of size 1 has none."""


def leaves(atoms: Iterable[Atom]) -> Axis:
    """The atoms as they are split now."""
    return tuple(leaf for atom in atoms for leaf in atom.leaves())


def resolved(layout: Layout) -> Layout:
    """The layout in the atoms as they are split now."""
    return tuple(leaves(axis) for axis in layout)


def flat(layout: Layout) -> Axis:
    """All atoms of a layout in order."""
    return leaves(atom for axis in layout for atom in axis)


def sizes_of(node: Any) -> tuple[Size, ...]:
    """The shape of a tensor, as numbers and expressions."""
    return tuple(expression(size) for size in fake(node).shape)


def expression(size: Any) -> Size:
    """A size as a number, or as an expression where it differs from call to call."""
    number = known(size)
    return number if number is not None else size.node.expr


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes.

    >>> product([2, 3])
    6
    """
    return math.prod(sizes)


def quotient(a: Size, b: Size) -> Size | None:
    """``a / b`` where it is a whole number for every input.

    >>> quotient(6, 3), quotient(6, 4)
    (2, None)
    """
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    ratio = sympy.cancel(sympy.sympify(a) / sympy.sympify(b))
    if sympy.fraction(ratio)[1] != 1:
        return None
    return int(ratio) if ratio.is_Integer else ratio


def regroup(atoms: Iterable[Atom], sizes: Sequence[Size]) -> Layout | None:
    """How atoms in row-major order make up axes of these sizes; splits atoms where need be, None where they overlap.

    >>> layout = regroup([Atom(6), Atom(4)], [2, 12])
    >>> [[atom.size for atom in axis] for axis in layout]
    [[2], [3, 4]]
    """
    waiting = list(leaves(atoms))
    made: list[Axis] = []
    for size in sizes:
        axis: list[Atom] = []
        rest: Size | None = size
        while rest != 1:
            if not waiting or rest is None or rest == 0:
                return None
            fits = quotient(rest, waiting[0].size)
            if fits is not None:
                axis.append(waiting.pop(0))
                rest = fits
                continue
            remainder = quotient(waiting[0].size, rest)
            if remainder is None:
                return None
            waiting[0].parts = (Atom(rest), Atom(remainder))
            waiting[:1] = waiting[0].parts
        made.append(tuple(axis))
    return None if waiting else tuple(made)


def is_copy(node: Any) -> bool:
    """Whether a node only repeats its first argument's values, perhaps in another dtype or memory layout."""
    if key(node) == "dropout":
        return not arguments(node)["train"]
    return key(node) in COPIES or key(node) in CASTS


def follow(layout: Layout, node: fx.Node) -> Layout | None:
    """The layout after a view, given that of its input; None where the node is no view or mixes axes."""
    order = permutation(node)
    if order is not None:
        return tuple(layout[axis] for axis in order)
    if is_copy(node):
        return layout
    same = key(node) == "expand" and product(sizes_of(node)) == product(sizes_of(node.args[0]))
    return regroup(flat(layout), sizes_of(node)) if key(node) in _RESHAPES or same else None


def is_view(node: Any) -> bool:
    """Whether `follow` knows the node, or `back` does."""
    known_name = key(node) in _RESHAPES or key(node) in ("expand", "repeat", "repeat_interleave")
    return isinstance(node, fx.Node) and (known_name or is_copy(node) or permutation(node) is not None)


def back(layout: Layout, node: fx.Node) -> Layout | None:
    """The layout of a view's input, given that of its result; what the view repeats is left out."""
    order = permutation(node)
    if order is not None:
        return tuple(layout[order.index(axis)] for axis in range(len(order)))
    if is_copy(node):
        return layout
    source = node.args[0]
    if tensor(source) is None:
        return None
    if key(node) in _RESHAPES:
        return regroup(flat(layout), sizes_of(source))
    if key(node) == "expand":
        kept = layout[len(layout) - fake(source).dim() :]
        return tuple(() if size == 1 else axis for size, axis in zip(sizes_of(source), kept, strict=True))
    return _before_repeat(layout, node)


def _before_repeat(layout: Layout, node: fx.Node) -> Layout | None:
    given, shape = arguments(node), sizes_of(node.args[0])
    if key(node) == "repeat":
        extra = len(layout) - len(shape)
        counts = list(given["repeats"])[extra:]
        outer, kept = True, layout[extra:]
    elif key(node) == "repeat_interleave" and isinstance(given.get("repeats"), int) and given.get("dim") is not None:
        dim = positive(given["dim"], len(shape))
        counts = [given["repeats"] if axis == dim else 1 for axis in range(len(shape))]
        outer, kept = False, layout
    else:
        return None
    made = []
    for axis, count, size in zip(kept, counts, shape, strict=True):
        if not isinstance(count, int):
            return None
        parts = regroup(axis, [count, size] if outer else [size, count])
        if parts is None:
            return None
        made.append(parts[1] if outer else parts[0])
    return tuple(made)
