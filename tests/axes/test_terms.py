"""Terms against brute force: every position of a dimension labelled with the indices that it belongs to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tersor.axes.select import indices, length, owners, touched
from tersor.axes.terms import (
    Axis,
    Cat,
    Misaligned,
    Product,
    Term,
    concatenation,
    cut,
    leaves,
    pin,
    product,
    resolve,
    size,
    split,
    unify,
)

FAST = settings(max_examples=60, deadline=None)


@dataclass(frozen=True)
class Layout:
    """What a dimension really is: a leaf of some size, a product ("*") or a concatenation ("+") of others."""

    kind: str
    children: tuple[Layout, ...] = ()
    leaf: int = 1

    @property
    def size(self) -> int:
        sizes = [child.size for child in self.children]
        return {"leaf": self.leaf, "*": math.prod(sizes), "+": sum(sizes)}[self.kind]


def layouts(depth: int = 2) -> st.SearchStrategy[Layout]:
    leaf = st.integers(2, 4).map(lambda n: Layout("leaf", leaf=n))
    if depth == 0:
        return leaf
    inner = st.lists(layouts(depth - 1), min_size=2, max_size=3).map(tuple)
    return st.one_of(leaf, inner.map(lambda c: Layout("*", c)), inner.map(lambda c: Layout("+", c)))


def built(layout: Layout, hidden: st.DataObject | None) -> Term:
    """A layout as a term over fresh axes; with ``hidden``, neighbours are merged into one axis here and there."""
    if layout.kind == "leaf" or (hidden and hidden.draw(st.integers(0, 3)) == 0):
        return Axis(layout.size)
    made, waiting = [], list(layout.children)
    while waiting:
        count = hidden.draw(st.integers(1, 2)) if hidden else 1
        taken, waiting = waiting[:count], waiting[count:]
        whole = Layout(layout.kind, tuple(taken))
        made.append(built(taken[0], hidden) if len(taken) == 1 else Axis(whole.size))
    return product(made) if layout.kind == "*" else concatenation(made)


def labels(term: Term, kept: Mapping[int, list[int]] | None = None) -> list[frozenset[tuple[int, int]]]:
    """For each position that stays the (axis number, index) pairs that it belongs to, by enumeration."""
    term = resolve(term)
    if isinstance(term, Axis):
        stay = (kept or {}).get(term.number, range(int(term.size)))
        return [frozenset({(term.number, index)}) for index in stay]
    if isinstance(term, Cat):
        return [label for part in term.parts for label in labels(part, kept)]
    return [frozenset().union(*chosen) for chosen in itertools.product(*(labels(f, kept) for f in term.factors))]


def coupled(term: Term) -> set[frozenset[int]]:
    """For each index of each axis the positions that go with it, whatever the axes are called."""
    places: dict[tuple[int, int], set[int]] = {}
    for position, label in enumerate(labels(term)):
        for atom in label:
            places.setdefault(atom, set()).add(position)
    return set(map(frozenset, places.values()))


def pair(layout: Layout, data: st.DataObject) -> tuple[Term, Term]:
    return built(layout, data), built(layout, data)


class Replay:
    """Gives the same draws again, so that the same terms can be built twice."""

    def __init__(self, data: st.DataObject) -> None:
        self.data, self.drawn, self.at = data, [], 0  # type: ignore[var-annotated]

    def draw(self, strategy: st.SearchStrategy[int]) -> int:
        if self.at == len(self.drawn):
            self.drawn.append(self.data.draw(strategy))
        self.at += 1
        return self.drawn[self.at - 1]

    def again(self) -> Replay:
        self.at = 0
        return self


def united(layout: Layout, data: st.DataObject) -> tuple[Term, Term]:
    """Two views of one small layout, made one."""
    assume(layout.size <= 72)
    left, right = pair(layout, data)
    unify(left, right)
    return left, right


@FAST
@given(layouts(), st.data())
def test_two_views_of_one_layout_become_one(layout, data):
    left, right = united(layout, data)
    assert size(left) == size(right) == layout.size == len(labels(left))
    assert labels(left) == labels(right)


@FAST
@given(layouts(), st.data())
def test_no_more_is_coupled_than_in_the_layout(layout, data):
    """Both views merge what the layout keeps apart, so that each of its own sets of positions may stay together."""
    left, _ = united(layout, data)
    truth = built(layout, None)
    unify(truth, left)
    assert labels(truth) == labels(left)


@FAST
@given(layouts(), st.data())
def test_the_order_of_arguments_does_not_matter(layout, data):
    assume(layout.size <= 72)
    replay = Replay(data)
    left, right = pair(layout, replay)  # type: ignore[arg-type]
    unify(left, right)
    other_left, other_right = pair(layout, replay.again())  # type: ignore[arg-type]
    unify(other_right, other_left)
    assert coupled(left) == coupled(other_left)


@FAST
@given(layouts(), st.data())
def test_a_second_time_changes_nothing(layout, data):
    left, right = united(layout, data)
    before = labels(left)
    unify(left, right)
    unify(right, left)
    assert labels(left) == labels(right) == before


@FAST
@given(layouts(), st.data())
def test_splits_keep_the_positions(layout, data):
    term = built(layout, data)
    fast = data.draw(st.sampled_from([n for n in range(1, layout.size + 1) if layout.size % n == 0]))
    try:
        slow, tail = split(term, fast)
    except Misaligned:
        assert not isinstance(resolve(term), Axis)
        return
    assert size(tail) == fast and size(slow) * fast == layout.size
    assert labels(product((slow, tail))) == labels(term)


@FAST
@given(layouts(), st.data())
def test_cuts_keep_the_positions(layout, data):
    term = built(layout, data)
    at = data.draw(st.integers(0, layout.size))
    try:
        head, tail = cut(term, at)
    except Misaligned:
        assert isinstance(resolve(term), Cat | Product)
        return
    assert size(head) == at and size(tail) == layout.size - at
    assert labels(concatenation((head, tail))) == labels(term)


@FAST
@given(layouts(), st.data())
def test_owners_are_those_of_the_enumeration(layout, data):
    term = built(layout, data)
    for axis in dict.fromkeys(leaves(term)):
        wanted = [dict(label).get(axis.number, -1) for label in labels(term)]
        assert owners(term, axis).tolist() == wanted


@FAST
@given(layouts(), st.data())
def test_indices_are_the_positions_of_what_stays_in_its_new_order(layout, data):
    term = built(layout, data)
    kept = {}
    for axis in dict.fromkeys(leaves(term)):
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(range(int(axis.size))))
            kept[axis] = torch.tensor(order[: data.draw(st.integers(1, int(axis.size)))])
    found = indices(term, kept)
    assert len(found) == length(term, kept)
    assert touched(term, kept) == bool(kept)
    all_labels = labels(term)
    wanted = labels(term, {axis.number: values.tolist() for axis, values in kept.items()})
    assert [all_labels[position] for position in found.tolist()] == wanted


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (Product((Axis(2), Axis(3))), Product((Axis(3), Axis(2)))),
        (Cat((Axis(1 + 1), Axis(4))), Product((Axis(2), Axis(3)))),
        (Axis(6), Axis(5)),
        (Product((Axis(4), Axis(6))), Product((Axis(6), Axis(4)))),
    ],
)
def test_crossing_boundaries_are_refused(left, right):
    with pytest.raises(Misaligned):
        unify(left, right)


def test_an_axis_cannot_contain_itself():
    axis = Axis(4)
    slow, fast = split(axis, 2)
    unify(slow, fast)
    assert labels(axis)[1] == {(resolve(slow).number, 0), (resolve(slow).number, 1)}  # type: ignore[union-attr]
    with pytest.raises(Misaligned):
        unify(Cat((axis, Axis(2))), Product((axis, Axis(2))))


def test_a_pin_passes_on_to_whatever_an_axis_turns_out_to_be():
    axis = Axis(12, "graph output")
    inner = split(axis, 3)[1]
    head, _ = cut(inner, 1 + 1)
    other = Axis(2)
    unify(other, head)
    assert [leaf.pin for leaf in leaves(axis)] and all(leaf.pin == "graph output" for leaf in leaves(axis))
    assert resolve(other).pin == "graph output"  # type: ignore[union-attr]


def test_the_first_pin_stays():
    axis = Axis(4)
    pin(axis, "first")
    pin(axis, "second")
    assert axis.pin == "first"
