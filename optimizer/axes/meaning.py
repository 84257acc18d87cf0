"""Integers that mean something: positions into an axis, and what counts them; operators that understand them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import fx

from tersor.axes.flow import Flow, Meaning, where
from tersor.axes.select import length
from tersor.axes.terms import Term, limit, pin, resolve, same, size
from tersor.rewrite_values import ASSERTIONS, arguments, key

Reader: TypeAlias = Callable[[fx.Node, Flow], None]

READERS: dict[str, Reader] = {}
"""What operators make of meaningful integers; all others pin the axis, because they take them for plain numbers."""


def reader(*names: str) -> Callable[[Reader], Reader]:
    """Register an operator that understands meaningful integers, by its name without overload."""

    def register(function: Reader) -> Reader:
        READERS.update(dict.fromkeys(names, function))
        return function

    return register


def result(node: fx.Node, index: int) -> str:
    """The key in `Flow.meanings` of one of several results."""
    return f"{node.name}.{index}"


def meaning(flow: Flow, item: Any) -> Meaning | None:
    """What the numbers in an argument are to an axis."""
    return flow.meanings.get(item.name) if isinstance(item, fx.Node) else None


def read(node: fx.Node, flow: Flow, name: str) -> None:
    """Follow the meanings of a node's arguments, or pin what they are about."""
    if name == "getitem":
        return _picked(node, flow)
    met = [found for source in node.all_input_nodes if (found := meaning(flow, source))]
    if met and name in READERS:
        READERS[name](node, flow)
    else:
        _pin(met, node)
    return None


def unread(node: fx.Node, flow: Flow) -> None:
    """A node that takes all numbers for plain ones."""
    if key(node) in ASSERTIONS:
        return
    _pin([found for source in node.all_input_nodes if (found := meaning(flow, source))], node)


def _pin(met: list[Meaning], node: fx.Node) -> None:
    for item in met:
        pin(item.term, where(node, "positions that become values"))


@reader(
    "reshape", "view", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "movedim", "squeeze",
    "unsqueeze", "expand", "clone", "contiguous", "alias", "detach", "to", "_to_copy", "split", "split_with_sizes",
    "chunk", "unbind", "select", "slice", "repeat", "repeat_interleave", "lift_fresh_copy", "cat", "stack",
)  # fmt: skip
def carried(node: fx.Node, flow: Flow) -> None:
    """The same numbers in another arrangement; several operands must mean the same."""
    first, *others = [meaning(flow, source) for source in node.all_input_nodes if _is_tensor(source)]
    value = node.meta.get("val")
    truth = isinstance(value, torch.Tensor) and value.dtype == torch.bool
    if first is None or truth or any(other is None or other.kind != first.kind for other in others):
        return unread(node, flow)
    for other in others:
        flow.tie(first.term, other.term)  # type: ignore[union-attr]
    flow.meanings[node.name] = first
    return None


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _picked(node: fx.Node, flow: Flow) -> None:
    """Take over the meaning of one of several results, or that of all of them."""
    source = node.args[0]
    found = flow.meanings.get(result(source, node.args[1])) or meaning(flow, source)  # type: ignore[arg-type]
    if found:
        flow.meanings[node.name] = found


@reader("eq", "ne")
def compared(node: fx.Node, flow: Flow) -> None:
    """Positions into one axis stay equal or different however it is numbered."""
    left, right = (meaning(flow, item) for item in node.args[:2])
    if left and right and left.kind == right.kind == "position" and same(size(left.term), size(right.term)):
        flow.tie(left.term, right.term)
    else:
        unread(node, flow)


@reader("ge", "le")
def passed(node: fx.Node, flow: Flow) -> None:
    """Whether a number has reached the end of each index's stretch."""
    number, end = node.args[:2] if "ge" in str(node.target) else node.args[1::-1]
    found = meaning(flow, end)
    if found and found.kind == "end":
        flow.meanings[node.name] = Meaning("passed", found.term)
        _pin([other] if (other := meaning(flow, number)) else [], node)
    else:
        unread(node, flow)


@reader("sum")
def totalled(node: fx.Node, flow: Flow) -> None:
    """How many stretches have ended is the position of the one that has not; all others are plain sums."""
    found = meaning(flow, node.args[0])
    if found and found.kind == "passed" and ranks(node, flow):
        flow.meanings[node.name] = Meaning("position", found.term)
    else:
        unread(node, flow)


def ranks(node: fx.Node, flow: Flow) -> bool:
    """Whether a sum counts along an axis which of its stretches have ended."""
    found, dims = meaning(flow, node.args[0]), arguments(node).get("dim")
    source = flow.dims(node.args[0])
    if found is None or found.kind != "passed" or not isinstance(dims, list | tuple) or len(dims) != 1:
        return False
    return resolve(source[dims[0]]) == resolve(found.term)


@reader("clamp", "clamp_max")
def clamped(node: fx.Node, flow: Flow) -> None:
    """A limit to the positions that there are follows their number."""
    found, given = meaning(flow, node.args[0]), arguments(node)
    if found is None or found.kind != "position" or given.get("min") not in (None, 0):
        return unread(node, flow)
    last = given["max"]
    if isinstance(last, int) and same(size(found.term), last + 1):
        flow.literal(node, "max", lambda kept: int(length(found.term, kept)) - 1)
    elif last is not None:
        return unread(node, flow)
    flow.meanings[node.name] = found
    return None


@reader("cumsum")
def accumulated(node: fx.Node, flow: Flow) -> None:
    """Counts along the axis itself become ends; those of removed indices are zero and move nothing."""
    found = meaning(flow, node.args[0])
    if found and counts(node, flow):
        limit(found.term, ordered=True)
        flow.meanings[node.name] = Meaning("end", found.term)
    else:
        unread(node, flow)


def counts(node: fx.Node, flow: Flow) -> bool:
    """Whether a running total is over the counts of an axis's indices."""
    found, source = meaning(flow, node.args[0]), flow.dims(node.args[0])
    return (
        found is not None and found.kind == "count" and resolve(source[int(node.args[1])]) == resolve(found.term)  # type: ignore[arg-type]
    )


@reader("sort", "argsort")
def sorted_positions(node: fx.Node, flow: Flow) -> None:
    """Positions are in the same order as long as the axis's indices are."""
    found = meaning(flow, node.args[0])
    if found and found.kind == "position":
        limit(found.term, ordered=True)
        flow.meanings[result(node, 0)] = found
    else:
        unread(node, flow)


@reader("histc")
def counted(node: fx.Node, flow: Flow) -> None:
    """`tersor.axes.routing.histogram` has followed it."""


@reader("one_hot")
def one_hot(node: fx.Node, flow: Flow) -> None:
    """`tersor.axes.routing.one_hot` has followed it."""


@reader(
    "index", "index_select", "gather", "take_along_dim", "embedding", "scatter", "scatter_add", "index_add",
    "index_put", "index_copy", "index_fill", "scatter_reduce",
)  # fmt: skip
def looked_up(node: fx.Node, flow: Flow) -> None:
    """Positions that name places are spoken for by `look_up`; what is read there keeps its meaning."""
    name = node.target.overloadpacket.__name__  # type: ignore[union-attr]
    reads = name in ("index", "index_select", "gather", "take_along_dim")
    found = meaning(flow, node.args[0])
    if found and reads:
        flow.meanings[node.name] = found
    places = _places(node, name)
    _pin([m for s in node.all_input_nodes if s not in places and not reads and (m := meaning(flow, s))], node)


def _places(node: fx.Node, name: str) -> list[fx.Node]:
    """The arguments that name places."""
    given = node.args[1 if name in ("index", "index_put", "embedding") else 2]
    return [item for item in (given if isinstance(given, list | tuple) else [given]) if isinstance(item, fx.Node)]


def look_up(node: fx.Node, flow: Flow, term: Term, places: fx.Node) -> None:
    """``places`` name indices of a dimension: positions into it follow it, anything else pins it."""
    found = meaning(flow, places)
    if found and found.kind == "position" and same(size(found.term), size(term)):
        flow.tie(term, found.term)
        return
    pin(term, where(node, "positions that are looked up"))
    if found:
        pin(found.term, where(node, "positions that become values"))
