"""Flow through operators that join and take apart: concatenation, splits, slices, stacks."""

from __future__ import annotations

from typing import Any

from torch import fx

from tersor.axes.flow import Flow, Value, dim_of, fresh, rule, shape, where
from tersor.axes.select import length
from tersor.axes.terms import UNIT, Cat, Term, pin, same, size
from tersor.rewrite_values import argument, arguments, fake


@rule("cat", "concat", "concatenate")
def cat(node: fx.Node, flow: Flow) -> Value:
    """One dimension is a concatenation; the others are shared. Empty one-dimensional operands count for nothing."""
    operands = [flow.dims(item) for item in node.args[0]]  # type: ignore[union-attr]
    rank = max(len(dims) for dims in operands)
    operands = [dims for dims in operands if len(dims) == rank]
    dim = int(argument(node, "dim")) % rank
    for dims in operands[1:]:
        for index in set(range(rank)) - {dim}:
            flow.tie(operands[0][index], dims[index])
    joined = Cat(tuple(dims[dim] for dims in operands))
    return (*operands[0][:dim], joined, *operands[0][dim + 1 :])


@rule("stack")
def stack(node: fx.Node, flow: Flow) -> Value:
    """A new dimension of as many single positions as there are operands."""
    operands = [flow.dims(item) for item in node.args[0]]  # type: ignore[union-attr]
    for dims in operands[1:]:
        for left, right in zip(operands[0], dims, strict=True):
            flow.tie(left, right)
    dim = int(argument(node, "dim")) % (len(operands[0]) + 1)
    return (*operands[0][:dim], _positions(len(operands)), *operands[0][dim:])


def _positions(count: int) -> Term:
    return Cat((UNIT,) * count) if count > 1 else UNIT


@rule("split_with_sizes", "split_with_sizes_copy")
def split_with_sizes(node: fx.Node, flow: Flow) -> Value:
    """The dimension is the concatenation of the results'."""
    given = argument(node, "split_sizes")
    parts = _take_apart(node, flow, _result_shapes(node))
    if all(isinstance(item, int) for item in given):
        flow.literal(node, "split_sizes", lambda kept: [length(part, kept) for part in parts])
    return _results(node, flow, parts)


@rule("split", "chunk", "tensor_split")
def split_evenly(node: fx.Node, flow: Flow) -> Value:
    """As `split_with_sizes`; parts stated by one size stay equal to each other."""
    parts = _take_apart(node, flow, _result_shapes(node))
    given = arguments(node)
    if isinstance(given.get("split_size"), list | tuple):
        flow.literal(node, "split_size", lambda kept: [length(part, kept) for part in parts])
        return _results(node, flow, parts)
    if "indices" in given:
        flow.literal(
            node, "indices", lambda kept: [length(Cat(tuple(parts[: i + 1])), kept) for i in range(len(parts) - 1)]
        )
        return _results(node, flow, parts)
    for part in parts[1:]:
        if same(size(part), size(parts[0])):
            flow.tie(parts[0], part)
        else:
            pin(part, where(node, "an uneven split"))
            pin(parts[0], where(node, "an uneven split"))
    if "split_size" in given:
        flow.literal(node, "split_size", lambda kept: length(parts[0], kept))
    return _results(node, flow, parts)


def _result_shapes(node: fx.Node) -> list[Any]:
    return [shape(item) for item in node.meta["val"]]


def _take_apart(node: fx.Node, flow: Flow, shapes: list[Any]) -> list[Term]:
    source = flow.dims(node.args[0])
    dim = dim_of(node, len(source))
    parts: list[Term] = []
    rest = source[dim]
    for item in shapes:
        part, rest = flow.cut(rest, item[dim])
        parts.append(part)
    return parts


def _results(node: fx.Node, flow: Flow, parts: list[Term]) -> Value:
    source = flow.dims(node.args[0])
    dim = dim_of(node, len(source))
    return [(*source[:dim], part, *source[dim + 1 :]) for part in parts]


@rule("getitem")
def getitem(node: fx.Node, flow: Flow) -> Value:
    """One of several results."""
    found = flow.values[node.args[0].name]  # type: ignore[union-attr, index]
    assert isinstance(found, list)
    made: Value = found[node.args[1]]  # type: ignore[index]
    return made


@rule("unbind")
def unbind(node: fx.Node, flow: Flow) -> Value:
    """Every position is read by itself, so none can go."""
    source = flow.dims(node.args[0])
    dim = dim_of(node, len(source))
    flow.tie(source[dim], _positions(int(size(source[dim]))))
    return [(*source[:dim], *source[dim + 1 :])] * len(node.meta["val"])


@rule("select")
def select(node: fx.Node, flow: Flow) -> Value:
    """One position stays, wherever it comes to lie."""
    source = flow.dims(node.args[0])
    dim, index = dim_of(node, len(source)), argument(node, "index")
    total = size(source[dim])
    if isinstance(index, int) and isinstance(total, int):
        head, _ = flow.cut(source[dim], index % total)
        flow.cut(source[dim], index % total + 1)
        flow.literal(node, "index", lambda kept: length(head, kept))
    else:
        pin(source[dim], where(node, "a position chosen at run time"))
    return (*source[:dim], *source[dim + 1 :])


@rule("slice")
def slice_(node: fx.Node, flow: Flow) -> Value:
    """A stretch of the dimension, or every n-th position."""
    source = flow.dims(node.args[0])
    dim = dim_of(node, len(source))
    total = size(source[dim])
    start, end, step = (argument(node, name) for name in ("start", "end", "step"))
    result = shape(fake(node))[dim]
    if same(result, total):
        return source
    if not all(isinstance(item, int) or item is None for item in (start, end, total)) or not isinstance(result, int):
        pin(source[dim], where(node, "a slice computed at run time"))
        made: Term = fresh(result, where(node, "a slice computed at run time"))
    else:
        begin = min(total, max(0, start + total if start and start < 0 else start or 0))
        made = (
            _stretch(node, flow, source[dim], begin, result) if step == 1 else _strided(node, flow, source[dim], begin)
        )
    return (*source[:dim], made, *source[dim + 1 :])


def _stretch(node: fx.Node, flow: Flow, term: Term, begin: int, count: int) -> Term:
    head, rest = flow.cut(term, begin)
    taken, _ = flow.cut(rest, count)
    flow.literal(node, "start", lambda kept: length(head, kept))
    flow.literal(node, "end", lambda kept: length(head, kept) + length(taken, kept))
    return taken


def _strided(node: fx.Node, flow: Flow, term: Term, begin: int) -> Term:
    """Every ``step``-th position: those of one residue, whose neighbours cannot go."""
    step = int(argument(node, "step"))
    rows, phase = flow.split(term, step)
    pin(phase, where(node, "positions that are read in steps"))
    head, rest = flow.cut(rows, begin // step)
    flow.literal(node, "start", lambda kept: length(head, kept) * step + begin % step)
    return rest


@rule("slice_scatter", "select_scatter")
def scattered(node: fx.Node, flow: Flow) -> Value:
    """A stretch, or one position, of a dimension replaced; the other dimensions are shared."""
    into, part = flow.dims(node.args[0]), list(flow.dims(node.args[1]))
    dim = dim_of(node, len(into))
    total = size(into[dim])
    given = arguments(node)
    begin, step = given.get("index", given.get("start") or 0), given.get("step", 1)
    if step != 1 or not isinstance(begin, int) or not isinstance(total, int):
        return flow.fixed(node, where(node, "places that are written"))
    single = "index" in given
    if single:
        part.insert(dim, UNIT)
        head, _ = flow.cut(into[dim], begin % total)
        flow.cut(into[dim], begin % total + 1)
        flow.literal(node, "index", lambda kept: length(head, kept))
    else:
        flow.tie(part[dim], _stretch(node, flow, into[dim], begin % total, int(size(part[dim]))))
    for index in set(range(len(into))) - {dim}:
        flow.tie(into[index], part[index])
    return into
