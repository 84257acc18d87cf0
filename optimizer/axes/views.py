"""Flow through operators that rearrange dimensions: views, permutations, squeezes."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from tersor.axes.flow import Dims, Flow, Value, fresh, pin_value, rule, shape, where
from tersor.axes.select import length
from tersor.axes.terms import (
    Misaligned,
    Product,
    Size,
    Term,
    limit,
    product,
    quotient,
    resolve,
    same,
    size,
    split,
)
from tersor.rewrite_values import argument, arguments, fake


@rule("reshape", "view", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as")
def reshape(node: fx.Node, flow: Flow) -> Value:
    """The same elements in row-major order: factors are regrouped, and split where a boundary falls inside one."""
    made = regroup(flow.dims(node.args[0]), shape(fake(node)), where(node, "boundaries that cross"))
    if "other" in _names(node):
        for term, other in zip(made, flow.dims(node.args[1]), strict=True):
            flow.tie(term, other)
    name = next((n for n in ("size", "shape") if n in _names(node)), "")
    if name and not isinstance(argument(node, name), fx.Node):
        flow.sizes(node, name, made)
    elif "sizes" in _names(node):
        dim = int(argument(node, "dim")) % len(flow.dims(node.args[0]))
        flow.sizes(node, "sizes", made[dim : dim + len(argument(node, "sizes"))])
    return made


def _names(node: fx.Node) -> list[str]:
    return [item.name for item in node.target._schema.arguments]  # type: ignore[union-attr]


def regroup(source: Dims, sizes: tuple[Size, ...], reason: str) -> Dims:
    """Dimensions of the given sizes over the same row-major elements.

    Where boundaries cross, as in the skewing trick of relative positions, only the dimensions between the next common
    boundaries are pinned.
    """
    if any(size(term) == 0 for term in source):
        return tuple(fresh(item, "empty tensor") for item in sizes)
    made: list[Term] = []
    for part, wanted in _blocks(source, sizes):
        try:
            made.extend(_regrouped(part, wanted))
        except Misaligned:
            pin_value(part, reason)
            made.extend(fresh(item, reason) for item in wanted)
    return tuple(made)


def _blocks(source: Dims, sizes: tuple[Size, ...]) -> Iterator[tuple[Dims, tuple[Size, ...]]]:
    """Shortest stretches of both that hold equally many elements."""
    waiting, terms, wanted = list(source), [], []
    have: Size = 1
    want: Size = 1
    for item in sizes:
        wanted.append(item)
        want = want * item
        while waiting and not same(have, want) and _fewer(have, want):
            terms.append(waiting.pop(0))
            have = have * size(terms[-1])
        if same(have, want) and not same(want, 1):
            yield tuple(terms), tuple(wanted)
            terms, wanted, have, want = [], [], 1, 1
    if terms or waiting or wanted:
        yield (*terms, *waiting), tuple(wanted)


def _fewer(have: Size, want: Size) -> bool:
    return not (isinstance(have, int) and isinstance(want, int)) or have < want


def _regrouped(source: Dims, sizes: tuple[Size, ...]) -> Dims:
    waiting: list[Term] = [term for dim in source for term in _factors(dim)]
    made: list[Term] = []
    for wanted in reversed(sizes):
        taken: list[Term] = []
        left: Size | None = wanted
        while not same(left, 1):
            if not waiting:
                raise Misaligned(f"nothing left for a size of {wanted}", "sizes whose product is unchanged")
            factor = waiting.pop()
            rest = quotient(left, size(factor))
            if rest is None:
                slow, factor = split(factor, left)
                waiting.extend(_factors(slow))
                rest = 1
            taken.insert(0, factor)
            left = rest
        made.append(product(taken))
    return tuple(reversed(made))


def _factors(term: Term) -> list[Term]:
    term = resolve(term)
    return list(term.factors) if isinstance(term, Product) else [term]


@rule("permute")
def permute(node: fx.Node, flow: Flow) -> Value:
    """Dimensions in another order."""
    source = flow.dims(node.args[0])
    return tuple(source[int(dim) % len(source)] for dim in argument(node, "dims"))


@rule("transpose", "swapaxes")
def transpose(node: fx.Node, flow: Flow) -> Value:
    """Two dimensions exchanged."""
    made = list(flow.dims(node.args[0]))
    first, second = (int(dim) % len(made) for dim in node.args[1:3])  # type: ignore[arg-type]
    made[first], made[second] = made[second], made[first]
    return tuple(made)


@rule("t", "numpy_T", "mT", "adjoint")
def matrix_transpose(node: fx.Node, flow: Flow) -> Value:
    """The last two dimensions exchanged."""
    source = flow.dims(node.args[0])
    return (*source[:-2], source[-1], source[-2]) if len(source) > 1 else source


@rule("movedim")
def movedim(node: fx.Node, flow: Flow) -> Value:
    """Dimensions moved to new places."""
    source = flow.dims(node.args[0])
    places = [argument(node, name) for name in ("source", "destination")]
    old, new = ([int(d) % len(source) for d in (p if isinstance(p, list | tuple) else [p])] for p in places)
    made = [index for index in range(len(source)) if index not in old]
    for place, index in sorted(zip(new, old, strict=True)):
        made.insert(place, index)
    return tuple(source[index] for index in made)


@rule("squeeze", "unsqueeze", "squeeze_")
def squeeze(node: fx.Node, flow: Flow) -> Value:
    """Dimensions of size 1 come and go; the others keep their order."""
    source = flow.dims(node.args[0])
    for dim in _squeezed(node, len(source)):
        limit(source[dim], least=2)
    waiting = [term for term in source if size(term) != 1]
    made: list[Term] = []
    for wanted in shape(fake(node)):
        made.append(fresh(1) if wanted == 1 else waiting.pop(0))
    return tuple(made)


def _squeezed(node: fx.Node, rank: int) -> list[int]:
    """Dimensions that would vanish if one index were left of them."""
    if "unsqueeze" in str(node.target):
        return []
    dims = arguments(node).get("dim")
    chosen = range(rank) if dims is None else dims if isinstance(dims, list | tuple) else [dims]
    return [int(dim) % rank for dim in chosen if rank]


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(node: fx.Node, flow: Flow) -> Value:
    """Channels ``(group, rest)`` become ``(rest, group)``."""
    source = flow.dims(node.args[0])
    total = size(source[1])
    group, rest = flow.split(source[1], quotient(total, int(node.args[1])))  # type: ignore[arg-type]
    flow.literal(node, "groups", lambda kept: length(group, kept))
    return (source[0], product((rest, group)), *source[2:])
