"""The parts of attention in a graph: both products, what stands between them, and what joins heads behind them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy
import onnx_ir as ir

from tersor.export.dims import inferred_dims
from tersor.export.edit import (
    Dim,
    add_constant,
    constant_array,
    constant_ints,
    constant_number,
    dims_of,
    insert_before,
    int_attribute,
    ints_attribute,
    is_op,
    made_by,
    only_use,
    replace,
    same_dims,
)

DOMAIN = "com.microsoft"
"""Of the operators that only ONNX Runtime has."""

HEADS = [0, 2, 1, 3]
"""Between [batch, tokens, heads, width] and [batch, heads, tokens, width]."""


@dataclass(frozen=True)
class Products:
    """``softmax(scale * queries @ keys + added) @ values``, as [batch, heads, tokens, width]; keys are transposed.

    Where it is ``causal``, no token sees a later one, and nothing is added.
    """

    queries: ir.Value
    keys: ir.Value
    values: ir.Value
    scale: float
    added: ir.Value | None
    causal: bool
    output: Output


@dataclass(frozen=True)
class Output:
    """The reshape behind the transpose that joins heads, and which rows see anything where others are zeros."""

    reshape: ir.Node
    seen: ir.Value | None


def products_of(softmax: ir.Node) -> Iterator[Products]:
    """How a softmax may be attention's; more than one way where it cannot be told which summand is the product."""
    weights, scores = softmax.outputs[0], softmax.inputs[0]
    if not only_use(weights) or scores is None or int_attribute(softmax, "axis", -1) not in (-1, 3):
        return
    mixed = next(iter(weights.uses())).node
    output = _output(mixed.outputs[0]) if is_op(mixed, "MatMul") and mixed.inputs[0] is weights else None
    values = mixed.inputs[1] if output is not None else None
    seen = _causal(scores)
    for product, added in sums(scores) if seen is None else [(seen, None)]:
        node = made_by(product, "MatMul")
        queries = _scaled(node.inputs[0]) if node is not None else None
        keys = node.inputs[1] if node is not None else None
        if queries is not None and keys is not None and values is not None and output is not None:
            yield Products(queries[0], keys, values, queries[1], added, seen is not None, output)


def _causal(scores: ir.Value) -> ir.Value | None:
    """Scores before those of later tokens are hidden; None where nothing hides them, or something else."""
    hidden = made_by(scores, "Where")
    if hidden is None or constant_number(hidden.inputs[2]) != -math.inf:
        return None
    return hidden.inputs[1] if _is_triangle(hidden.inputs[0]) else None


def _is_triangle(value: ir.Value | None) -> bool:
    """Whether a Boolean matrix is true on its diagonal and below, and nowhere else."""
    array = constant_array(value, 1 << 20)
    if array is not None:
        return array.ndim == 2 and numpy.array_equal(array, numpy.tri(*array.shape, dtype=bool))
    node = made_by(value, "Trilu")
    ones = made_by(node.inputs[0], "ConstantOfShape") if node is not None and len(node.inputs) == 1 else None
    filled = ones.attributes.get("value") if ones is not None else None
    lower = node is not None and int_attribute(node, "upper", 1) == 0
    return lower and filled is not None and bool(filled.as_tensor().numpy().all())


def _scaled(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """Queries before they are multiplied by a constant, and that constant."""
    node = made_by(value, "Mul")
    if node is None:
        return None if value is None else (value, 1.0)
    source, number = node.inputs[0], constant_number(node.inputs[1])
    return None if source is None or number is None else (source, number)


def sums(value: ir.Value) -> Iterator[tuple[ir.Value, ir.Value | None]]:
    """(product, what is added to it) as a value may be meant."""
    node = value.producer()
    if node is None or not is_op(node, "Add"):
        yield value, None
        return
    for product, added in (node.inputs, node.inputs[::-1]):
        if product is not None:
            yield product, added


def put(graph: ir.Graph, output: Output, source: ir.Value, node: ir.Node) -> None:
    """Put attention as one node in front of the reshape behind it; that stays where it does more than join heads."""
    back = output.reshape
    made = node.outputs[0]
    made.name = f"{back.outputs[0].name}_attention"
    graph.insert_before(back, node)
    if output.seen is not None:
        heads = add_constant(graph, numpy.array([1]), "axis_of_heads")
        zero = add_constant(graph, numpy.zeros((), dtype=numpy.float32), "unseen")
        seen = insert_before(graph, back, "Squeeze", output.seen, heads)
        made = insert_before(graph, back, "Where", seen, made, zero)
    if _only_joins(back, source):
        made.name = back.outputs[0].name
        replace(graph, back, made)
    else:
        back.replace_input_with(0, made)


def joined_by(output: Output, source: ir.Value) -> bool:
    """Whether what is behind [batch, tokens, heads * width] stays as it is, or does nothing but make that.

    ``source`` is [batch, tokens, channels].
    """
    return _only_joins(output.reshape, source) or _reads_on(output.reshape)


def _only_joins(reshape: ir.Node, x: ir.Value) -> bool:
    """Whether the result is [batch, tokens, heads * width] for an input [batch, tokens, channels]."""
    dims, lead = dims_of(reshape.outputs[0]), dims_of(x)
    return dims is not None and lead is not None and len(dims) == 3 and same_dims(dims[:2], lead[:2])


def _reads_on(reshape: ir.Node) -> bool:
    """Whether a reshape of [batch, tokens, heads, width] gives the same of [batch, tokens, heads * width]."""
    sizes = constant_ints(reshape.inputs[1])
    return bool(int_attribute(reshape, "allowzero", 0)) or (sizes is not None and 0 not in sizes[2:])


def is_bias(added: ir.Value | None, x: ir.Value, heads: int) -> bool:
    """Whether ONNX Runtime's operators take what is added to scores: [batch or 1, heads or 1, tokens, tokens]."""
    dims, (batch, tokens, _) = inferred_dims(added), dims_of(x) or (None, None, None)
    if added is None:
        return True
    if dims is None or len(dims) != 4 or added.dtype != ir.DataType.FLOAT:
        return False
    whole = dims[0] == 1 or same_dims(dims[:1], (batch,))
    return whole and dims[1] in (1, heads) and same_dims(dims[2:], (tokens, tokens))


def heads_of_keys(value: ir.Value | None) -> tuple[ir.Value | None, list[int]]:
    """Keys before their last two axes change places, and the order that makes heads of these."""
    node = made_by(value, "Transpose")
    if node is not None and ints_attribute(node, "perm") == [0, 1, 3, 2]:
        return node.inputs[0], HEADS
    return value, [0, 2, 3, 1]


def transposed(value: ir.Value | None, order: Sequence[int]) -> ir.Node | None:
    """The reshape that a transpose in this order reads."""
    node = made_by(value, "Transpose")
    return made_by(node.inputs[0], "Reshape") if node is not None and ints_attribute(node, "perm") == [*order] else None


def divided(source: ir.Value | None, reshape: ir.Node, rank: int) -> tuple[Dim, ...] | None:
    """The shape that a reshape of [batch, tokens, channels] gives, where it only divides channels."""
    inner, outer = dims_of(source), dims_of(reshape.outputs[0])
    if inner is None or outer is None or len(inner) != 3 or len(outer) != rank:
        return None
    return outer if same_dims(inner[:2], outer[:2]) else None


def _output(result: ir.Value) -> Output | None:
    """What joins heads behind the second product, [batch, heads, tokens, width], where nothing else reads them."""
    user, seen = _only(result), None
    if user is not None and is_op(user, "Where") and user.inputs[1] is result:
        seen = user.inputs[0]
        dims = inferred_dims(seen) or ()
        if constant_number(user.inputs[2]) != 0 or len(dims) != 4 or dims[1] != 1:
            return None
        user = _only(user.outputs[0])
    if user is None or not is_op(user, "Transpose") or ints_attribute(user, "perm") != HEADS:
        return None
    reshape = _only(user.outputs[0])
    return Output(reshape, seen) if reshape is not None and is_op(reshape, "Reshape") else None


def _only(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value."""
    return next(iter(value.uses())).node if only_use(value) else None
