"""Flow through choices and their consequences: the best of an axis, its positions as integers, scattering back."""

from __future__ import annotations

from typing import Any

from torch import fx

from tersor.axes.flow import Flow, Meaning, Value, dim_of, fresh, pin_value, rule, shape, where
from tersor.axes.meaning import counts, look_up, meaning, result
from tersor.axes.norms import reduce, reduced
from tersor.axes.select import length
from tersor.axes.terms import Term, limit, pin, same, size
from tersor.rewrite_values import argument, arguments, fake


@rule("topk")
def topk(node: fx.Node, flow: Flow) -> Value:
    """The best of a dimension and their positions in it, such as the experts of a token; so many must stay."""
    source, count = flow.dims(node.args[0]), argument(node, "k")
    dim = dim_of(node, len(source))
    if isinstance(count, int):
        limit(source[dim], least=count)
    else:
        pin(source[dim], where(node, "a number of best ones computed at run time"))
    flow.span(node, source[dim])
    flow.role(node, "expert", source[dim])
    flow.meanings[result(node, 1)] = Meaning("position", source[dim])
    best = fresh(shape(node.meta["val"][0])[dim], where(node, "the best of a dimension"))
    return [(*source[:dim], best, *source[dim + 1 :])] * 2


@rule("argmax", "argmin")
def best(node: fx.Node, flow: Flow) -> Value:
    """The position of the best of a dimension."""
    source = flow.dims(node.args[0])
    along = reduced(node, len(source))
    if arguments(node).get("dim") is None:
        for term in source:
            pin(term, where(node, "positions that become values"))
    else:
        flow.span(node, source[along[0]])
        flow.meanings[node.name] = Meaning("position", source[along[0]])
    return reduce(source, along, node)


@rule("sort", "argsort", "kthvalue", "mode")
def ranked(node: fx.Node, flow: Flow) -> Value:
    """A dimension in the order of its values, which all matter; the others pass."""
    source = flow.dims(node.args[0])
    dim = dim_of(node, len(source))
    pin(source[dim], where(node, "an order of all positions"))
    value = node.meta["val"]
    made = reduce(source, [dim], node) if node.target.overloadpacket.__name__ in ("kthvalue", "mode") else source  # type: ignore[union-attr]
    return [made] * len(value) if isinstance(value, list | tuple) else made


@rule("multinomial", "nonzero", "unique_consecutive", "_unique2", "unique_dim", "bincount", "masked_select")
def chosen(node: fx.Node, flow: Flow) -> Value:
    """Results whose positions depend on all values."""
    return flow.fixed(node, where(node, "positions that become values"))


@rule("arange")
def arange(node: fx.Node, flow: Flow) -> Value:
    """Positions of a new axis, where they are counted from 0 by 1; otherwise values that depend on their place."""
    given = arguments(node)
    made = fresh(shape(fake(node))[0])
    if given.get("start", 0) == 0 and given.get("step", 1) == 1 and isinstance(given["end"], int):
        flow.literal(node, "end", lambda kept: length(made, kept))
        flow.meanings[node.name] = Meaning("position", made)
    else:
        pin(made, where(node, "values that depend on their position"))
    return (made,)


@rule("one_hot")
def one_hot(node: fx.Node, flow: Flow) -> Value:
    """A new dimension whose indices the numbers name."""
    count = argument(node, "num_classes")
    term = fresh(shape(fake(node))[-1])
    if isinstance(count, int) and count > 0:
        look_up(node, flow, term, node.args[0])  # type: ignore[arg-type]
        flow.literal(node, "num_classes", lambda kept: length(term, kept))
    else:
        pin_value((term,), where(node, "classes counted at run time"))
    return (*flow.dims(node.args[0]), term)


@rule("histc")
def histogram(node: fx.Node, flow: Flow) -> Value:
    """How often each position is named, where every position has its own bin."""
    given, reason = arguments(node), where(node, "values that are counted")
    pin_value(flow.dims(node.args[0]), reason)
    found, bins = meaning(flow, node.args[0]), given["bins"]
    if not found or found.kind != "position" or not _one_bin_each(found.term, given):
        if found:
            pin(found.term, reason)
        return (fresh(bins, reason),)
    flow.literal(node, "bins", lambda kept: length(found.term, kept))
    flow.literal(node, "max", lambda kept: int(length(found.term, kept)) - 1)
    flow.meanings[node.name] = Meaning("count", found.term)
    return (found.term,)


def _one_bin_each(term: Term, given: dict[str, Any]) -> bool:
    return same(size(term), given["bins"]) and given["min"] == 0 and given["max"] == given["bins"] - 1


@rule("cumsum")
def cumulated(node: fx.Node, flow: Flow) -> Value:
    """The order of positions matters; only where counts are totalled may some go, because theirs are zero."""
    source = flow.dims(node.args[0])
    if not counts(node, flow):
        pin(source[dim_of(node, len(source))], where(node, "cumsum"))
    return source


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(node: fx.Node, flow: Flow) -> Value:
    """Values written to, or added at, the places that an index names along one dimension."""
    given = arguments(node)
    into, places = flow.dims(given["self"]), flow.dims(given["index"])
    dim = dim_of(node, len(into))
    written = given.get("src")
    operands = [places, *([flow.dims(written)] if isinstance(written, fx.Node) else [])]
    for index, term in enumerate(into):
        met = [dims[index] for dims in operands]
        if index == dim:
            look_up(node, flow, term, given["index"])
            _updates(node, flow, met, index)
        else:
            _together(node, flow, [term, *met])
    return into


def _updates(node: fx.Node, flow: Flow, met: list[Term], dim: int) -> None:
    """The dimension of the updates themselves: one that adds to others may go, one that overwrites may not."""
    _together(node, flow, met)
    if node.target.overloadpacket.__name__ == "scatter_add":  # type: ignore[union-attr]
        flow.contract(node, argument(node, "src"), dim)
    else:
        pin(met[0], where(node, "places that are written"))


def _together(node: fx.Node, flow: Flow, met: list[Term]) -> None:
    """Dimensions that are gone through together, as far as the shortest goes."""
    if all(same(size(met[0]), size(term)) for term in met[1:]):
        for term in met[1:]:
            flow.tie(met[0], term)
    else:
        pin_value(tuple(met), where(node, "places that are written"))


@rule("index_add", "index_copy", "index_fill")
def index_add(node: fx.Node, flow: Flow) -> Value:
    """Slices added to, or put in the place of, those that a list of positions names."""
    given = arguments(node)
    into, places = flow.dims(given["self"]), flow.dims(given["index"])
    dim = dim_of(node, len(into))
    look_up(node, flow, into[dim], given["index"])
    if isinstance(given.get("source"), fx.Node):
        for index, (left, right) in enumerate(zip(into, flow.dims(given["source"]), strict=True)):
            flow.tie(places[0] if index == dim else left, right)
    if node.target.overloadpacket.__name__ == "index_add":  # type: ignore[union-attr]
        flow.contract(node, given["source"], dim)
    else:
        pin_value(places, where(node, "places that are written"))
    return into
