"""Flow through matrix products: linear layers, matmul in all its forms, einsum, bilinear forms."""

from __future__ import annotations

from torch import fx

from tersor.axes.elementwise import broadcast
from tersor.axes.flow import Dims, Flow, Value, rule, shape, where
from tersor.axes.terms import Term, pin, size, unify
from tersor.rewrite_values import argument, fake


@rule("linear")
def linear(node: fx.Node, flow: Flow) -> Value:
    """The last dimension is summed away against the weight's last; the weight's first takes its place."""
    source, weight = node.args[:2]
    inner = flow.dims(weight)
    flow.contract(node, source, -1, inner[-1])  # type: ignore[arg-type]
    flow.role(node, "in", inner[-1])
    out: Dims = inner[:-1]
    if out:
        flow.role(node, "out", out[0])
    bias = argument(node, "bias")
    if bias is not None and out:
        unify(flow.dims(bias)[0], out[0])
    return (*flow.dims(source)[:-1], *out)


@rule("matmul", "bmm", "mm", "mv", "dot")
def matmul(node: fx.Node, flow: Flow) -> Value:
    """The last dimension of the left and the last but one of the right are summed away; leading ones broadcast."""
    return _product(node, flow, node.args[0], node.args[1])  # type: ignore[arg-type]


def _product(node: fx.Node, flow: Flow, left: fx.Node, right: fx.Node) -> Dims:
    first, second = flow.dims(left), flow.dims(right)
    inner = second[-2] if len(second) > 1 else second[-1]
    flow.contract(node, left, -1, inner)
    rows = first[-2:-1] if len(first) > 1 else ()
    columns = second[-1:] if len(second) > 1 else ()
    result = shape(fake(node))
    batch = broadcast(flow, [first[:-2], second[:-2]], result[: len(result) - len(rows) - len(columns)])
    _roles(node, flow, (*batch, *rows, *columns), inner, "get_attr" in (left.op, right.op))
    return (*batch, *rows, *columns)


def _roles(node: fx.Node, flow: Flow, made: Dims, inner: Term, with_weight: bool) -> None:
    """A product with a weight is a layer; one of two activations with leading dimensions is half of an attention."""
    if with_weight or len(made) < 3:
        flow.role(node, "in", inner)
        if made:
            flow.role(node, "out", made[-1])
        return
    for term in (inner, made[-1]):
        flow.role(node, "head-dim", term)
    flow.role(node, "head", made[-3])


@rule("addmm", "baddbmm", "addbmm", "addmv")
def addmm(node: fx.Node, flow: Flow) -> Value:
    """A product with something added."""
    made = _product(node, flow, node.args[1], node.args[2])  # type: ignore[arg-type]
    return broadcast(flow, [made, flow.dims(node.args[0])], shape(fake(node)))


@rule("outer", "ger")
def outer(node: fx.Node, flow: Flow) -> Value:
    """Each of the left with each of the right."""
    return (*flow.dims(node.args[0]), *flow.dims(node.args[1]))


@rule("einsum")
def einsum(node: fx.Node, flow: Flow) -> Value:
    """One axis per letter; letters that are not in the result are summed away."""
    equation, operands = str(node.args[0]).replace(" ", ""), list(node.args[1])  # type: ignore[arg-type]
    if "..." in equation or "->" not in equation:
        return flow.fixed(node, where(node, "an einsum with implicit dimensions"))
    left, result = equation.split("->")
    letters: dict[str, Term] = {}
    for names, operand in zip(left.split(","), operands, strict=True):
        for place, letter in enumerate(names):
            term = flow.dims(operand)[place]
            if letters.setdefault(letter, term) is not term and size(term) != 1:
                unify(letters[letter], term)
            if names.count(letter) > 1:
                pin(term, where(node, "a diagonal"))
            if letter not in result:
                flow.contract(node, operand, place)  # type: ignore[arg-type]
    return tuple(letters[letter] for letter in result)
