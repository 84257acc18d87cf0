"""Flow through matrix products: linear layers, matmul in all its forms, einsum, bilinear forms."""

from __future__ import annotations

from torch import fx

from tersor.axes.elementwise import broadcast
from tersor.axes.flow import Dims, Flow, Value, rule, shape, where
from tersor.axes.terms import UNIT, Term, pin, size
from tersor.rewrite_values import argument, fake, key


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
        flow.tie(flow.dims(bias)[0], out[0])
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
    _roles(node, flow, (*batch, *rows, *columns), inner, _is_weight(left) or _is_weight(right))
    return (*batch, *rows, *columns)


_REARRANGED = ("transpose", "permute", "t", "index", "select", "view", "reshape", "unsqueeze", "expand", "clone")


def _is_weight(node: fx.Node) -> bool:
    """Whether an operand is a weight, perhaps rearranged, or looked up as the weights of an expert are."""
    while key(node) in _REARRANGED:
        node = node.args[0]  # type: ignore[assignment]
    return node.op == "get_attr"


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
    """A product with something added; addbmm also sums over the batch."""
    left, right = node.args[1:3]
    made = _product(node, flow, left, right)  # type: ignore[arg-type]
    if key(node) == "addbmm":
        flow.contract(node, left, 0, flow.dims(right)[0])  # type: ignore[arg-type]
    return broadcast(flow, [made, flow.dims(node.args[0])], shape(fake(node)))


@rule("outer", "ger")
def outer(node: fx.Node, flow: Flow) -> Value:
    """Each of the left with each of the right."""
    return (*flow.dims(node.args[0]), *flow.dims(node.args[1]))


@rule("inner")
def inner(node: fx.Node, flow: Flow) -> Value:
    """The last dimensions of both are summed away together."""
    left, right = (flow.dims(item) for item in node.args[:2])
    flow.contract(node, node.args[0], -1, right[-1])  # type: ignore[arg-type]
    return (*left[:-1], *right[:-1])


@rule("bilinear")
def bilinear(node: fx.Node, flow: Flow) -> Value:
    """``x1 W x2``: the last dimensions of both are summed away against the weight's."""
    first, second, weight, bias = (argument(node, name) for name in ("input1", "input2", "weight", "bias"))
    out, left, right = flow.dims(weight)
    flow.contract(node, first, -1, left)
    flow.contract(node, second, -1, right)
    for one, other in zip(flow.dims(first)[:-1], flow.dims(second)[:-1], strict=True):
        flow.tie(one, other)
    if bias is not None:
        flow.tie(flow.dims(bias)[0], out)
    flow.role(node, "out", out)
    return (*flow.dims(first)[:-1], out)


@rule("cdist", "_cdist_forward", "_euclidean_dist")
def distances(node: fx.Node, flow: Flow) -> Value:
    """Of each to each; where both lack an index it adds nothing."""
    first, second = (flow.dims(item) for item in node.args[:2])
    flow.contract(node, node.args[0], -1, second[-1])  # type: ignore[arg-type]
    flow.contract(node, node.args[1], -1)  # type: ignore[arg-type]
    batch = broadcast(flow, [first[:-2], second[:-2]], shape(fake(node))[:-2])
    return (*batch, first[-2], second[-2])


@rule("cosine_similarity")
def cosine_similarity(node: fx.Node, flow: Flow) -> Value:
    """Products and lengths along one dimension."""
    operands = [flow.dims(item) for item in node.args[:2]]
    rank = max(map(len, operands))
    padded = [(*(UNIT,) * (rank - len(dims)), *dims) for dims in operands]
    met = [next((dims[i] for dims in padded if size(dims[i]) != 1), UNIT) for i in range(rank)]
    for dims in padded:
        for term, wanted in zip(dims, met, strict=True):
            if size(term) != 1:
                flow.tie(term, wanted)
    dim = int(argument(node, "dim")) % rank
    flow.span(node, met[dim])
    return (*met[:dim], *met[dim + 1 :])


@rule("einsum")
def einsum(node: fx.Node, flow: Flow) -> Value:
    """One axis per letter; letters that are not in the result are summed away."""
    operands = list(node.args[1])  # type: ignore[arg-type]
    inputs, result = letters(str(node.args[0]), [len(flow.dims(item)) for item in operands])
    terms: dict[str, Term] = {}
    for names, operand in zip(inputs, operands, strict=True):
        for place, letter in enumerate(names):
            term = flow.dims(operand)[place]
            if size(terms.setdefault(letter, term)) == 1:
                terms[letter] = term
            elif size(term) != 1:
                flow.tie(terms[letter], term)
            if names.count(letter) > 1:
                pin(term, where(node, "a diagonal"))
            if letter not in result and size(term) != 1:
                flow.contract(node, operand, place)
    return tuple(terms[letter] for letter in result)


def letters(equation: str, ranks: list[int]) -> tuple[list[list[str]], list[str]]:
    """Names of each operand's dimensions and of the result's, implicit ones written out.

    >>> letters("...i,ij", [3, 2])
    ([['1', '0', 'i'], ['i', 'j']], ['1', '0', 'j'])
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    inputs = [_spelled(names, rank) for names, rank in zip(left.split(","), ranks, strict=True)]
    hidden = max(([n for n in names if n.isdigit()] for names in inputs), key=len)
    if not arrow:
        seen = [name for names in inputs for name in names]
        return inputs, [*hidden, *sorted(n for n in set(seen) if seen.count(n) == 1 and not n.isdigit())]
    head, dots, tail = right.partition("...")
    return inputs, [*head, *(hidden if dots else []), *tail]


def _spelled(names: str, rank: int) -> list[str]:
    head, dots, tail = names.partition("...")
    return [*head, *(str(i) for i in reversed(range(rank - len(head) - len(tail) if dots else 0))), *tail]
