"""Flow through look-ups and gathers: dimensions that are indexed are fixed, the others pass."""

from __future__ import annotations

from torch import fx

from tersor.axes.flow import Flow, Value, fresh, fresh_value, rule, shape, where
from tersor.axes.terms import Term, pin, same, size, unify
from tersor.rewrite_values import argument, fake


@rule("embedding", "embedding_bag")
def embedding(node: fx.Node, flow: Flow) -> Value:
    """Rows are looked up; columns pass."""
    table, places = flow.dims(node.args[0]), flow.dims(node.args[1])
    pin(table[0], where(node, "rows that are looked up"))
    flow.role(node, "out", table[1])
    return (*places, table[1])


@rule("index_select")
def index_select(node: fx.Node, flow: Flow) -> Value:
    """One dimension is looked up."""
    source, chosen = flow.dims(node.args[0]), flow.dims(node.args[2])
    dim = int(argument(node, "dim")) % len(source)
    pin(source[dim], where(node, "positions that are looked up"))
    return (*source[:dim], chosen[0], *source[dim + 1 :])


@rule("index")
def index(node: fx.Node, flow: Flow) -> Value:
    """Dimensions with an index tensor are replaced by the index's; the rest pass."""
    source = flow.dims(node.args[0])
    given = list(node.args[1])  # type: ignore[arg-type]
    given += [None] * (len(source) - len(given))
    at = [i for i, item in enumerate(given) if item is not None]
    result = fake(node)
    if at != list(range(at[0], at[-1] + 1)) or any(_is_mask(given[i]) for i in at):
        return flow.fixed(node, where(node, "positions that are looked up"))
    for i in at:
        pin(source[i], where(node, "positions that are looked up"))
    lead, tail = source[: at[0]], source[at[-1] + 1 :]
    middle = shape(result)[len(lead) : len(result.shape) - len(tail)]
    for i in at:
        for term in flow.dims(given[i]):
            pin(term, where(node, "positions that are looked up"))
    return (*lead, *(fresh(item, where(node, "positions that are looked up")) for item in middle), *tail)


def _is_mask(item: object) -> bool:
    import torch

    return isinstance(item, fx.Node) and item.meta["val"].dtype in (torch.bool, torch.uint8)


@rule("gather", "take_along_dim")
def gather(node: fx.Node, flow: Flow) -> Value:
    """The gathered dimension is fixed; the others are shared where index and source have the same size."""
    source, places = flow.dims(node.args[0]), flow.dims(node.args[2])
    dim = int(argument(node, "dim")) % len(source)
    for i, (left, right) in enumerate(zip(source, places, strict=True)):
        if i == dim or not same(size(left), size(right)):
            _pin_both(left, right, where(node, "positions that are looked up"))
        else:
            unify(left, right)
    return places


def _pin_both(left: Term, right: Term, reason: str) -> None:
    pin(left, reason)
    pin(right, reason)


@rule("arange", "linspace", "scalar_tensor", "eye", "rand", "randn", "randint", "tril_indices", "triu_indices")
def made(node: fx.Node, flow: Flow) -> Value:
    """Values that depend on their position, or on chance."""
    return fresh_value(node.meta["val"], where(node, "values that depend on their position"))


@rule("glu")
def glu(node: fx.Node, flow: Flow) -> Value:
    """Two halves, the second of which gates the first index by index."""
    from tersor.axes.terms import cut

    source = flow.dims(node.args[0])
    dim = int(argument(node, "dim")) % len(source)
    first, second = cut(source[dim], int(size(source[dim])) // 2)
    unify(first, second)
    return (*source[:dim], first, *source[dim + 1 :])
