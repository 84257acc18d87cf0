"""What attention a softmax belongs to: queries, keys, values, scale and biases, with the atoms of their axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tersor.passes._attention_layout import (
    CASTS,
    Atom,
    Axis,
    Layout,
    back,
    flat,
    follow,
    is_copy,
    is_view,
    leaves,
    resolved,
    sizes_of,
)
from tersor.passes._attention_product import Letters, lettered
from tersor.passes._attention_scores import Bias, Factor, Floor, Mask, Scale, Trail, View, dtype_of, trail
from tersor.passes._attention_values import Reading, reading, root_of
from tersor.program import Program
from tersor.rewrite_values import arguments, fake, key, positive, scalar, tensor


@dataclass(frozen=True)
class Operand:
    """A tensor that queries, keys or values may be taken from, and the number that it is multiplied with after it."""

    node: fx.Node
    layout: Layout
    scale: float = 1.0


@dataclass(frozen=True)
class Term:
    """What is added to the scores, or hides some of them, where they have this layout.

    Attributes:
        times: the number that it is multiplied with.
        low: it is at least this.
    """

    step: Bias | Mask
    layout: Layout
    times: float = 1.0
    low: float | None = None


@dataclass
class Scores:
    """The scores at some point on the way to the softmax."""

    layout: Layout
    scale: float
    terms: list[Term]
    factors: list[tuple[Factor, Layout]]


@dataclass(frozen=True)
class Attention:
    """One attention.

    Attributes:
        queries, keys, values: each from the nearest operand to the farthest.
        rows, columns, inner, depth: atoms of queries, keys, the head dimension of both, and of the values.
        batch, heads, shared: the other atoms; those in ``shared`` (the last heads) keys and values lack.
        result: layout of the node that is replaced.
    """

    root: fx.Node
    queries: list[Operand]
    keys: list[Operand]
    values: list[Operand]
    scores: Scores
    reading: Reading
    rows: Axis
    columns: Axis
    inner: Axis
    depth: Axis
    batch: Axis
    heads: Axis
    shared: Axis
    result: Layout

    @property
    def dtype(self) -> torch.dtype:
        """Of the result."""
        return dtype_of(self.root)


def plan(program: Program, softmax: fx.Node) -> Attention | str:
    """The attention around a softmax, or the first condition that fails."""
    root = root_of(softmax)
    if isinstance(root, str):
        return root
    found = reading(program, root[0])
    if isinstance(found, str):
        return found
    way = trail(program, root[1])
    if isinstance(way, str):
        return way
    inside = {*way.nodes, *found.nodes, softmax, root[0]}
    for node in inside - {found.product.node}:
        others = [user for user in node.users if user not in inside and key(user) != "sym_size"]
        if others:
            return f"{node.name} is read by {others[0].name} too, so that nothing would be spared"
    letters = lettered(way.product)
    scores = _scores(way, letters.out)
    if isinstance(scores, str):
        return scores
    columns = scores.layout[positive(root[2], len(scores.layout))]
    return _assembled(program, way, letters, found, scores, columns)


def _scores(way: Trail, layout: Layout) -> Scores | str:
    state = Scores(layout, way.product.scale, [], [])
    state.terms += [Term(Bias(way.product.added), state.layout, way.product.factor)] if way.product.added else []
    for step in way.steps:
        match step:
            case View(node):
                moved = follow(state.layout, node)
                if moved is None:
                    return f"{node.name} mixes the axes of the scores"
                state.layout = moved
            case Scale(by):
                state.scale *= by
                state.terms = [Term(term.step, term.layout, term.times * by, term.low) for term in state.terms]
            case Factor():
                if state.terms:
                    return "scores are multiplied by a tensor after a bias was added"
                state.factors.append((step, state.layout))
            case Floor(low):
                state.terms = [Term(term.step, term.layout, term.times, low) for term in state.terms]
            case Bias() | Mask():
                state.terms.append(Term(step, state.layout))
    return state if state.scale > 0 else f"the scores are multiplied by {state.scale:g}, which is not positive"


def _assembled(
    program: Program, way: Trail, letters: Letters, found: Reading, scores: Scores, columns: Axis
) -> Attention | str:
    after: Layout | None = scores.layout
    for view in found.views:
        after = follow(after, view) if after is not None else None
        if after is None:
            return f"{view.name} mixes the axes of the probabilities"
    product = _values(found, after or (), columns)
    if isinstance(product, str):
        return product
    layout, result, depth = product
    sides = [(way.product.operands[0], letters.left), (way.product.operands[1], letters.right)]
    if not columns:
        return "it runs over a single score"
    owners = [set(leaves(columns)) <= set(flat(side[1])) for side in sides]
    if owners[0] == owners[1]:
        return "it runs over an axis that is not one of keys only"
    query, keys = sides if owners[1] else sides[::-1]
    ways = [
        _ascended(program, *query, scaled=True),
        _ascended(program, *keys, scaled=True),
        _ascended(program, found.product.operands[1 - found.place], layout, scaled=False),
    ]
    return _named(found, scores, ways, letters.out, columns, depth, result, query[1])


def _named(
    found: Reading, scores: Scores, ways: list[list[Operand]], whole: Layout, columns: Axis, depth: Axis,
    result: Layout, query: Layout,
) -> Attention | str:  # fmt: skip
    held = [set(flat(way[-1].layout)) for way in ways]
    score_atoms = flat(whole)
    inner = tuple(atom for atom in flat(query) if atom not in score_atoms)
    only = [atom for axis in query for atom in leaves(axis) if atom not in held[1] and atom in score_atoms]
    last = next((axis for axis in reversed(query) if any(atom in only for atom in leaves(axis))), ())
    rows = tuple(atom for atom in leaves(last) if atom in only)
    if held[2] & set(rows):
        return "each query has values of its own"
    columns = leaves(columns)
    others = [atom for atom in score_atoms if atom not in rows and atom not in columns]
    shared = tuple(
        atom for atom in others if isinstance(atom.size, int) and atom not in held[1] | held[2] and atom in held[0]
    )
    common = [atom for atom in others if atom not in shared]
    heads = tuple(common[-1:]) if len(common) > 1 else ()
    queries, keys, values = ways
    return Attention(
        found.product.node, queries, keys, values, scores, found, rows, columns, inner, leaves(depth),
        tuple(common[: len(common) - len(heads)]), (*heads, *shared), shared, resolved(result),
    )  # fmt: skip


def _values(found: Reading, probabilities: Layout, columns: Axis) -> tuple[Layout, Layout, Axis] | str:
    """(layout of the values, layout of the result, atoms that only values have)."""
    terms = found.product.terms
    bound = dict(zip(terms[found.place], probabilities, strict=True))
    other = found.product.operands[1 - found.place]
    depth: dict[str, Atom] = {}
    layout: list[Axis] = []
    for letter, size in zip(terms[1 - found.place], sizes_of(other), strict=True):
        if size == 1:
            layout.append(())
            continue
        if not bound.get(letter):
            depth[letter] = Atom(size)
        layout.append(bound.get(letter) or (depth[letter],))
    if any(letter not in terms[2] for letter in depth):
        return "values are summed over an axis that the probabilities lack"
    contracted = [atom for letter in terms[found.place] if letter not in terms[2] for atom in bound[letter]]
    if leaves(contracted) != leaves(columns):
        return "the product with the values sums over another axis than the softmax"
    if any(letter not in terms[1 - found.place] for letter in terms[found.place] if letter not in terms[2]):
        return "probabilities are summed without values"
    out = tuple(bound.get(letter) or ((depth[letter],) if letter in depth else ()) for letter in terms[2])
    return tuple(layout), out, tuple(depth.values())


def _ascended(program: Program, node: fx.Node, layout: Layout, scaled: bool) -> list[Operand]:
    """The operand and what it is a view, a multiple or a widened copy of."""
    ways = [Operand(node, layout)]
    while True:
        last = ways[-1]
        source, by = _scaled(program, last.node) if scaled else (None, 1.0)
        if source is not None:
            ways.append(Operand(source, last.layout, last.scale * by))
            continue
        if not is_view(last.node) or _narrows(last.node):
            return ways
        before = back(last.layout, last.node)
        if before is None:
            return ways
        ways.append(Operand(last.node.args[0], before, last.scale))  # type: ignore[arg-type]


def _narrows(node: fx.Node) -> bool:
    """Whether a cast loses digits, or comes from integers."""
    if key(node) not in CASTS and not is_copy(node):
        return False
    before, after = fake(node.args[0]).dtype, fake(node).dtype
    return before != after and (not before.is_floating_point or torch.promote_types(before, after) != after)


def _scaled(program: Program, node: Any) -> tuple[fx.Node | None, float]:
    """(x, c) where a node is ``c * x``."""
    if key(node) not in ("mul", "div"):
        return None, 1.0
    first, second, *rest = arguments(node).values()
    pairs = ((first, second),) if key(node) == "div" else ((first, second), (second, first))
    for x, other in pairs:
        by, found = scalar(program, other), tensor(x)
        if by and found is not None and found.shape == fake(node).shape and not any(rest):
            return x, 1 / float(by) if key(node) == "div" else float(by)
    return None, 1.0
