"""Flow through operators for which places matter: grids, copies, padding, orders, diagonals."""

from __future__ import annotations

from torch import fx

from tersor.axes.flow import Flow, Value, fresh, fresh_value, rule, shape, where
from tersor.axes.select import length
from tersor.axes.terms import UNIT, Cat, Product, pin
from tersor.rewrite_values import argument, arguments, fake, key


@rule("meshgrid")
def meshgrid(node: fx.Node, flow: Flow) -> Value:
    """Every combination of several one-dimensional tensors."""
    made = [flow.dims(item)[0] if flow.dims(item) else UNIT for item in node.args[0]]  # type: ignore[union-attr]
    if arguments(node).get("indexing") == "xy" and len(made) > 1:
        made[0], made[1] = made[1], made[0]
    return [tuple(made)] * len(made)


@rule("repeat", "tile")
def repeat(node: fx.Node, flow: Flow) -> Value:
    """Copies one after another: a product with a new slow axis."""
    times = list(list(arguments(node).values())[1])
    if not all(isinstance(count, int) for count in times):
        return flow.fixed(node, where(node, "copies counted at run time"))
    source = flow.dims(node.args[0])
    source = (*(UNIT,) * (len(times) - len(source)), *source)
    times = [1] * (len(source) - len(times)) + times
    return tuple(Product((fresh(n, where(node, "copies")), term)) for term, n in zip(source, times, strict=True))


@rule("repeat_interleave")
def repeat_interleave(node: fx.Node, flow: Flow) -> Value:
    """Each position several times: a product with a new fast axis."""
    given = arguments(node)
    if not isinstance(given.get("repeats"), int) or given.get("dim") is None:
        return flow.fixed(node, where(node, "repeats computed at run time"))
    source = flow.dims(node.args[0])
    dim = int(given["dim"]) % len(source)
    made = Product((source[dim], fresh(given["repeats"], where(node, "copies"))))
    if isinstance(given.get("output_size"), int):
        flow.literal(node, "output_size", lambda kept: length(made, kept))
    return (*source[:dim], made, *source[dim + 1 :])


@rule("constant_pad_nd", "pad", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
      "replication_pad1d", "replication_pad2d", "replication_pad3d")  # fmt: skip
def padded(node: fx.Node, flow: Flow) -> Value:
    """A padded dimension keeps its own positions between those of the padding, where it is padded with a constant."""
    source, result = flow.dims(node.args[0]), shape(fake(node))
    amounts = list(argument(node, "padding") if "padding" in arguments(node) else argument(node, "pad"))
    constant = key(node) == "constant_pad_nd" or arguments(node).get("mode") == "constant"
    made = list(source)
    for place in range(len(amounts) // 2):
        dim = len(source) - 1 - place
        before, after = amounts[2 * place : 2 * place + 2]
        if before == 0 and after == 0:
            continue
        reason = where(node, "padding")
        simple = constant and all(isinstance(n, int) and n >= 0 for n in (before, after))
        if simple and isinstance(result[dim], int):
            made[dim] = Cat((fresh(before, reason), source[dim], fresh(after, reason)))
        else:
            pin(source[dim], reason)
            made[dim] = fresh(result[dim], reason)
    return tuple(made)


@rule("flip", "roll", "cumprod", "logcumsumexp", "unfold", "tril", "triu")
def ordered(node: fx.Node, flow: Flow) -> Value:
    """Operators for which the order of positions matters along some dimensions, which are pinned; the rest pass."""
    source = flow.dims(node.args[0])
    along = [-1, -2] if key(node) in ("tril", "triu") else _along(node)
    for dim in along:
        pin(source[dim], where(node, key(node)))
    if key(node) == "unfold":
        made = fresh_value(node.meta["val"], where(node, "unfold"))
        assert isinstance(made, tuple)
        return tuple(made[i] if i in (along[0], len(made) - 1) else source[i] for i in range(len(made)))
    return source


@rule("rot90", "cummax", "cummin", "as_strided", "block_diag", "tensordot", "kron", "linalg_cross", "cross")
def rearranged(node: fx.Node, flow: Flow) -> Value:
    """Operators that look at every position of everything."""
    return flow.fixed(node, where(node, key(node)))


@rule("diagonal")
def diagonal(node: fx.Node, flow: Flow) -> Value:
    """Two dimensions walked together become the last one."""
    source, reason = flow.dims(node.args[0]), where(node, "a diagonal")
    pair = [int(argument(node, name)) % len(source) for name in ("dim1", "dim2")]
    for dim in pair:
        pin(source[dim], reason)
    return (*(term for i, term in enumerate(source) if i not in pair), fresh(shape(fake(node))[-1], reason))


@rule("diag_embed")
def diag_embed(node: fx.Node, flow: Flow) -> Value:
    """The last dimension becomes the diagonal of two new ones."""
    source, reason = flow.dims(node.args[0]), where(node, "a diagonal")
    result = shape(fake(node))
    pin(source[-1], reason)
    pair = sorted(int(argument(node, name)) % len(result) for name in ("dim1", "dim2"))
    made = list(source[:-1])
    for dim in pair:
        made.insert(dim, fresh(result[dim], reason))
    return tuple(made)


def _along(node: fx.Node) -> list[int]:
    given = arguments(node)
    dims = given.get("dims", given.get("dim", given.get("dimension")))
    rank = len(fake(node.args[0]).shape)
    found = [int(d) % rank for d in (dims if isinstance(dims, list | tuple) else [dims])]  # type: ignore[arg-type]
    return found or list(range(rank))
