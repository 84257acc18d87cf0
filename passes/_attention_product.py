"""Matrix products of any spelling as one einsum of two operands."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

from torch import fx

from tersor.passes._attention_layout import Atom, Layout, sizes_of
from tersor.program import Program
from tersor.rewrite_values import arguments, fake, key, scalar


@dataclass(frozen=True)
class Product:
    """``scale * einsum("left,right->out") + factor * added``; an operand's axis of size 1 is broadcast.

    Attributes:
        terms: the letters of left, right and result.
        added: what baddbmm adds, or None.
    """

    node: fx.Node
    operands: tuple[fx.Node, fx.Node]
    terms: tuple[str, str, str]
    scale: float = 1.0
    added: fx.Node | None = None
    factor: float = 1.0


def product_of(program: Program, node: Any) -> Product | None:
    """The product that a node computes, or None where it is no product of two computed tensors."""
    name = key(node)
    if name in ("matmul", "bmm", "mm"):
        return _matmul(node, node.args[0], node.args[1])
    if name in ("baddbmm", "addmm"):
        return _added(program, node)
    if name == "einsum":
        return _einsum(node)
    if name == "linear" and node.args[1].op != "get_attr" and arguments(node)["bias"] is None:
        lead = string.ascii_lowercase[: fake(node).dim() - 1]
        return Product(node, (node.args[0], node.args[1]), (f"{lead}z", "yz", f"{lead}y"))
    return None


def _matmul(node: fx.Node, left: fx.Node, right: fx.Node) -> Product | None:
    ranks = fake(left).dim(), fake(right).dim()
    if min(ranks) < 2:
        return None
    lead = string.ascii_lowercase[: max(ranks) - 2]
    first, second = (lead[len(lead) - rank + 2 :] for rank in ranks)
    return Product(node, (left, right), (f"{first}xz", f"{second}zy", f"{lead}xy"))


def _added(program: Program, node: fx.Node) -> Product | None:
    added, left, right, beta, alpha = arguments(node).values()
    found, numbers = _matmul(node, left, right), (scalar(program, beta), scalar(program, alpha))
    if found is None or None in numbers:
        return None
    factor, scale = (float(number) for number in numbers if number is not None)
    return Product(node, found.operands, found.terms, scale, added if factor else None, factor)


def _einsum(node: fx.Node) -> Product | None:
    equation, operands = node.args[0], node.args[1]
    assert isinstance(equation, str) and isinstance(operands, list | tuple)
    if len(operands) != 2:
        return None
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    left, right = (_spelled(term, fake(x).dim()) for term, x in zip(inputs.split(","), operands, strict=True))
    if arrow:
        result = _spelled(result, fake(node).dim())
    else:
        both = left + right
        dots = [letter for letter in both if letter.isdigit()]
        once = [letter for letter in both if both.count(letter) == 1 and not letter.isdigit()]
        result = "".join(sorted(set(dots)) + sorted(once))
    if any(len(set(term)) != len(term) for term in (left, right, result)):
        return None
    first, second = operands
    assert isinstance(first, fx.Node) and isinstance(second, fx.Node)
    return Product(node, (first, second), (left, right, result))


def _spelled(term: str, rank: int) -> str:
    """An ellipsis as digits, the last axis of it first."""
    count = rank - len(term.replace("...", ""))
    return term.replace("...", string.digits[:count][::-1])


@dataclass(frozen=True)
class Letters:
    """The atoms behind a product's letters.

    Attributes:
        left, right, out: layouts.
    """

    left: Layout
    right: Layout
    out: Layout


def lettered(found: Product) -> Letters:
    """One atom for each letter that is no axis of size 1."""
    atoms: dict[str, Atom] = {}
    nodes = (*found.operands, found.node)
    for node, term in zip(nodes, found.terms, strict=True):
        for letter, size in zip(term, sizes_of(node), strict=True):
            if size != 1:
                atoms.setdefault(letter, Atom(size))
    layouts = [
        tuple((atoms[letter],) if size != 1 else () for letter, size in zip(term, sizes_of(node), strict=True))
        for node, term in zip(nodes, found.terms, strict=True)
    ]
    return Letters(*layouts)
