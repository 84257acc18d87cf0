"""Flow through look-ups and gathers: dimensions that are indexed by plain numbers are fixed, the others pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from tersor.axes.elementwise import broadcast
from tersor.axes.flow import Dims, Flow, Value, fresh, fresh_value, pin_value, rule, shape, where
from tersor.axes.meaning import look_up
from tersor.axes.terms import Term, pin, same, size
from tersor.rewrite_values import argument, arguments, fake

LOOKED_UP = "positions that are looked up"


@rule("embedding")
def embedding(node: fx.Node, flow: Flow) -> Value:
    """Rows are looked up; columns pass."""
    table, places = flow.dims(node.args[0]), flow.dims(node.args[1])
    look_up(node, flow, table[0], node.args[1])  # type: ignore[arg-type]
    flow.role(node, "out", table[1])
    return (*places, table[1])


@rule("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(node: fx.Node, flow: Flow) -> Value:
    """Sums or means of rows; columns pass. The other results are about rows."""
    table, reason = flow.dims(node.args[0]), where(node, LOOKED_UP)
    for source in node.all_input_nodes[1:]:
        pin_value(flow.values.get(source.name), reason)
    pin(table[0], reason)
    made = fresh_value(node.meta["val"], reason)
    assert isinstance(made, list)
    if arguments(node)["mode"] == 2:
        pin(table[1], reason)
    flow.role(node, "out", table[1])
    return [(made[0][0], table[1]), *made[1:]]


@rule("index_select")
def index_select(node: fx.Node, flow: Flow) -> Value:
    """One dimension is looked up."""
    source, chosen = flow.dims(node.args[0]), flow.dims(node.args[2])
    dim = int(argument(node, "dim")) % len(source)
    look_up(node, flow, source[dim], node.args[2])  # type: ignore[arg-type]
    return (*source[:dim], chosen[0], *source[dim + 1 :])


@rule("index", "_unsafe_index")
def index(node: fx.Node, flow: Flow) -> Value:
    """Dimensions with an index tensor are replaced by the index's; the rest pass."""
    source = flow.dims(node.args[0])
    if _masks(node):
        return _masked(node, flow, source)
    return _region(node, flow, source, shape(fake(node)))


@rule("index_put", "_unsafe_index_put")
def index_put(node: fx.Node, flow: Flow) -> Value:
    """As `index`, but written; the places that are written to stay, because what is not written is not zero."""
    into, values = flow.dims(node.args[0]), argument(node, "values")
    reason = where(node, "places that are written")
    if _masks(node):
        return _mask_put(node, flow, into)
    for place in _given(node, into):
        if place is not None:
            pin_value(flow.dims(place), reason)
    region = _region(node, flow, into, None)
    written = flow.dims(values)
    broadcast(flow, [region, written], tuple(size(term) for term in region))
    return into


def _given(node: fx.Node, source: Dims) -> list[Any]:
    given = list(node.args[1])  # type: ignore[arg-type]
    return given + [None] * (len(source) - len(given))


def _region(node: fx.Node, flow: Flow, source: Dims, result: tuple[Any, ...] | None) -> Dims:
    """Dimensions of what an index reads; index tensors that are not neighbours put theirs in front."""
    given = _given(node, source)
    at = [i for i, item in enumerate(given) if item is not None]
    for i in at:
        look_up(node, flow, source[i], given[i])
    rest = [term for i, term in enumerate(source) if i not in at]
    front = at[0] if at == list(range(at[0], at[-1] + 1)) else 0
    places = [flow.dims(given[i]) for i in at]
    rank = max(map(len, places))
    sizes = result[front : front + rank] if result is not None else _broadcast_sizes(places, rank)
    return (*rest[:front], *broadcast(flow, places, sizes), *rest[front:])


def _broadcast_sizes(places: list[Dims], rank: int) -> tuple[Any, ...]:
    padded = [(*(1,) * (rank - len(dims)), *(size(term) for term in dims)) for dims in places]
    return tuple(next((item for item in row if item != 1), 1) for row in zip(*padded, strict=True))


def _masks(node: fx.Node) -> bool:
    given: list[Any] = [item for item in node.args[1] if isinstance(item, fx.Node)]  # type: ignore[union-attr]
    return any(item.meta["val"].dtype in (torch.bool, torch.uint8) for item in given)


def _masked(node: fx.Node, flow: Flow, source: Dims) -> Value:
    """What a mask selects lies in one new dimension."""
    given = [(i, item) for i, item in enumerate(node.args[1]) if item is not None]  # type: ignore[arg-type]
    reason = where(node, LOOKED_UP)
    if len(given) != 1:
        return flow.fixed(node, reason)
    place, mask = given[0][0], flow.dims(given[0][1])
    pin_value((*source[place : place + len(mask)], *mask), reason)
    return (*source[:place], fresh(shape(fake(node))[place], reason), *source[place + len(mask) :])


def _mask_put(node: fx.Node, flow: Flow, into: Dims) -> Value:
    """One number written wherever a mask says so treats all places alike."""
    given, values = list(node.args[1]), argument(node, "values")  # type: ignore[arg-type]
    if len(given) != 1 or any(size(term) != 1 for term in flow.dims(values)):
        return flow.fixed(node, where(node, "places that are written"))
    for left, right in zip(into, flow.dims(given[0]), strict=False):
        flow.tie(left, right)
    return into


@rule("gather", "take_along_dim")
def gather(node: fx.Node, flow: Flow) -> Value:
    """One dimension is looked up; the others are shared where index and source have the same size."""
    given = arguments(node)
    chosen = given.get("index", given.get("indices"))
    source, places = flow.dims(node.args[0]), flow.dims(chosen)
    if given["dim"] is None or len(source) != len(places):
        return flow.fixed(node, where(node, LOOKED_UP))
    dim = int(given["dim"]) % len(source)
    look_up(node, flow, source[dim], chosen)  # type: ignore[arg-type]
    for i, (left, right) in enumerate(zip(source, places, strict=True)):
        if i != dim:
            _share(node, flow, left, right)
    return places


def _share(node: fx.Node, flow: Flow, left: Term, right: Term) -> None:
    if same(size(left), size(right)):
        flow.tie(left, right)
    else:
        pin_value((left, right), where(node, LOOKED_UP))


@rule("bucketize")
def bucketize(node: fx.Node, flow: Flow) -> Value:
    """Each number by itself, against boundaries that all count."""
    pin_value(flow.dims(node.args[1]), where(node, "boundaries"))
    return flow.dims(node.args[0])


@rule("searchsorted")
def searchsorted(node: fx.Node, flow: Flow) -> Value:
    """As `bucketize`, with one row of boundaries for all numbers or for each row of them."""
    rows, numbers = flow.dims(node.args[0]), flow.dims(node.args[1])
    pin(rows[-1], where(node, "boundaries"))
    for left, right in zip(rows[:-1], numbers[:-1], strict=len(rows) > 1):
        flow.tie(left, right)
    return numbers


@rule("linspace", "scalar_tensor", "eye", "rand", "randn", "randint", "tril_indices", "triu_indices", "hann_window",
      "hamming_window", "fft_fftfreq", "fft_rfftfreq")  # fmt: skip
def made(node: fx.Node, flow: Flow) -> Value:
    """Values that depend on their position, or on chance."""
    return fresh_value(node.meta["val"], where(node, "values that depend on their position"))


@rule("glu")
def glu(node: fx.Node, flow: Flow) -> Value:
    """Two halves, the second of which gates the first index by index."""
    source = flow.dims(node.args[0])
    dim = int(argument(node, "dim")) % len(source)
    first, second = flow.cut(source[dim], int(size(source[dim])) // 2)
    flow.tie(first, second)
    return (*source[:dim], first, *source[dim + 1 :])
