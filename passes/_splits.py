"""Rules for split, chunk, unbind, select, slice and cat: one spelling each."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import fx

from tersor.rewrite import AnyRule, Match, Plan, node_rule
from tersor.rewrite_values import argument, arguments, fake, key, known, positional, positive, tensor, value

aten = torch.ops.aten


@node_rule(
    "split", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "split_with_sizes", "unsafe_split_with_sizes"
)
def one_split(match: Match) -> Plan:
    """Every division along an axis is a split_with_sizes, where the sizes are known."""
    node, parts = match.root, value(match.root)
    x = argument(node, "self")
    source = tensor(x)
    if source is None or not isinstance(parts, tuple | list):
        return None
    dim = positive(argument(node, "dim"), source.dim())
    sizes = [known(part.shape[dim]) for part in parts]
    if None in sizes or (node.target is aten.split_with_sizes.default and positional(node) == (x, sizes, dim)):
        return None
    return lambda: match.call(aten.split_with_sizes.default, x, sizes, dim)


@node_rule("getitem")
def item_of_division(match: Match) -> Plan:
    """An item of an unbind is a select; the only part of a split is its input."""
    source, index = match.args
    assert isinstance(source, fx.Node)
    if key(source) == "unbind":
        x, dim = arguments(source).values()
        rank = fake(x).dim()
        count = len(value(source))
        return lambda: match.call(aten.select.int, x, positive(dim, rank), index % count)
    if key(source) == "split_with_sizes" and len(value(source)) == 1:
        return lambda: positional(source)[0]
    return None


@node_rule("squeeze")
def squeezed_item(match: Match) -> Plan:
    """A slice or split part of size 1 whose axis is squeezed is a select."""
    item, axes = match.args[:2] if len(match.args) > 1 else (None, None)
    if not isinstance(axes, list | tuple) or len(axes) != 1 or not isinstance(item, fx.Node) or len(item.users) != 1:
        return None
    place = _place(item)
    if place is None or place[1] != axes[0]:
        return None
    x, dim, start = place
    return lambda: match.call(aten.select.int, x, dim, start)


def _place(item: fx.Node) -> tuple[fx.Node, int, int] | None:
    """(source, axis, start) of a part of length 1."""
    if key(item) == "slice":
        x, dim, start, _, step = arguments(item).values()
        found = tensor(item)
        rank = found.dim() if found is not None else 0
        one = found is not None and known(found.shape[positive(dim, rank)]) == 1
        return (x, positive(dim, rank), start) if one and isinstance(start, int) and start >= 0 and step == 1 else None
    if key(item) == "getitem" and key(item.args[0]) == "split_with_sizes":
        source, index = positional(item)
        x, sizes, dim = positional(source)
        return (x, dim, sum(sizes[:index])) if sizes[index] == 1 else None
    return None


@node_rule("select")
def one_select(match: Match) -> Plan:
    """A select counts axis and index from the front; on an axis of size 1 it is a squeeze."""
    x, dim, index = arguments(match.root).values()
    source = tensor(x)
    if source is None or not isinstance(index, int):
        return None
    axis = positive(dim, source.dim())
    size = known(source.shape[axis])
    if size == 1:
        return lambda: match.call(aten.squeeze.dims, x, [axis])
    place = index % size if size else index
    if (axis, place) == (dim, index):
        return None
    return lambda: match.call(aten.select.int, x, axis, place)


@node_rule("slice", "narrow")
def one_slice(match: Match) -> Plan:
    """A slice counts from the front where the size is known; one of everything is dropped."""
    given = _slice_arguments(match.root)
    source = tensor(given[0])
    if source is None:
        return None
    x, dim, start, end, step = given
    axis = positive(dim, source.dim())
    size = known(source.shape[axis])
    start, end = _front(start or 0, size), _front(sys.maxsize if end is None else end, size)
    if (size is not None and isinstance(end, int) and end >= size) or end == sys.maxsize:
        end = sys.maxsize
    if start == 0 and end == sys.maxsize and step == 1:
        return lambda: x
    wanted = (x, axis, start, end, step) if step != 1 else (x, axis, start, end)
    if match.root.target is aten.slice.Tensor and match.args == wanted:
        return None
    return lambda: match.call(aten.slice.Tensor, *wanted)


def _slice_arguments(node: fx.Node) -> tuple[Any, ...]:
    given = tuple(arguments(node).values())
    if key(node) == "slice":
        return given
    x, dim, start, length = given
    literal = isinstance(start, int) and isinstance(length, int) and (start >= 0 or start + length < 0)
    return (x, dim, start, start + length, 1) if literal else (None,)


def _front(place: Any, size: int | None) -> Any:
    return max(place + size, 0) if isinstance(place, int) and place < 0 and size is not None else place


@node_rule("cat", "concat", "concatenate")
def one_cat(match: Match) -> Plan:
    """A cat of one is its part, a cat in a cat of the same axis is part of it, a cat of all of a split is its input."""
    parts, dim = arguments(match.root).values()
    out = tensor(match.root)
    if out is None or not parts or any(tensor(part) is None or fake(part).dim() != out.dim() for part in parts):
        return None
    if len(parts) == 1:
        return lambda: parts[0]
    axis = positive(dim, out.dim())
    whole = _whole(parts, axis)
    if whole is not None:
        return lambda: whole
    flat = [item for part in parts for item in _inner_parts(part, axis, out.dtype)]
    if match.root.target is aten.cat.default and dim == axis and len(flat) == len(parts):
        return None
    return lambda: match.call(aten.cat.default, flat, axis)


def _inner_parts(part: fx.Node, axis: int, dtype: torch.dtype) -> list[fx.Node]:
    found = tensor(part)
    if key(part) != "cat" or len(part.users) != 1 or found is None or found.dtype != dtype:
        return [part]
    inner, dim = arguments(part).values()
    same = all(tensor(item) is not None and fake(item).dim() == found.dim() for item in inner)
    return list(inner) if same and positive(dim, found.dim()) == axis else [part]


def _whole(parts: list[fx.Node], axis: int) -> fx.Node | None:
    """The input of a split along ``axis`` whose parts are all there in order."""
    source: Any = positional(parts[0])[0] if key(parts[0]) == "getitem" else None
    if key(source) != "split_with_sizes" or source.args[2:] != (axis,):
        return None
    wanted = [(source, position) for position in range(len(value(source)))]
    found = [positional(part) for part in parts if key(part) == "getitem"]
    return positional(source)[0] if found == wanted and len(parts) == len(wanted) else None


RULES: tuple[AnyRule, ...] = (one_split, item_of_division, squeezed_item, one_select, one_slice, one_cat)
