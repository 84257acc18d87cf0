"""Self-attention as the one operator that ONNX Runtime has for it: ``com.microsoft::Attention``.

It takes the layer's input and the three projections' weights side by side, and keeps heads where they are made: no
transpose, split or copy. ONNX Runtime's own fusions look for the spellings of some exporters, and miss ours. Only ONNX
Runtime knows the operator, so files meant for others do not hold it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy
import onnx_ir as ir

from tersor.export.clean import remove_unused
from tersor.export.dims import inferred_dims
from tersor.export.edit import (
    Dim,
    add_constant,
    apply_rules,
    constant_array,
    constant_ints,
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
_HEADS = [0, 2, 1, 3]
"""Between [batch, tokens, heads, width] and [batch, heads, tokens, width]."""


@dataclass(frozen=True)
class _Projection:
    """Which third of ``linear``, [batch, tokens, 3 * heads * width], something is, and how many heads it has."""

    linear: ir.Value
    place: int
    heads: int


@dataclass(frozen=True)
class _Layer:
    """What makes queries, keys and values side by side of ``x``, [batch, tokens, channels]."""

    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None


@dataclass(frozen=True)
class _Output:
    """The reshape behind the transpose that joins heads, and which rows see anything where others are zeros."""

    reshape: ir.Node
    seen: ir.Value | None


def with_whole_attention(model: ir.Model) -> ir.Model:
    """A copy, whose weights are shared, with self-attention as ONNX Runtime's node; the model itself where it has none.

    Masks that are added to scores may be computed; causal ones without a mask stay as they are.
    """
    if not any(is_op(node, "Softmax") for node in model.graph):
        return model
    made = model.clone()
    if not apply_rules(made.graph, {"Softmax": _rewrite}):
        return model
    made.graph.opset_imports[DOMAIN] = 1
    remove_unused(made)
    return made


def _rewrite(graph: ir.Graph, softmax: ir.Node) -> bool:
    weights, scores = softmax.outputs[0], softmax.inputs[0]
    if not only_use(weights) or scores is None or int_attribute(softmax, "axis", -1) not in (-1, 3):
        return False
    mixed = next(iter(weights.uses())).node
    output = _output(mixed.outputs[0]) if is_op(mixed, "MatMul") and mixed.inputs[0] is weights else None
    for product, added in _sums(scores):
        node = product.producer()
        queries = _scaled(node.inputs[0]) if node is not None and is_op(node, "MatMul") else None
        if node is None or queries is None or output is None:
            continue
        parts = _projection(queries[0]), _keys(node.inputs[1]), _projection(mixed.inputs[1])
        layer = _layer(parts)
        if layer is None or parts[0] is None or not (_only_joins(output.reshape, layer.x) or _reads_on(output.reshape)):
            continue
        if _fits(added, layer.x, parts[0].heads):
            _put(graph, layer, output, added, num_heads=parts[0].heads, scale=queries[1])
            return True
    return False


def _put(graph: ir.Graph, layer: _Layer, output: _Output, added: ir.Value | None, **attributes: int | float) -> None:
    """Attention in front of the reshape; that stays where it does more than join heads."""
    width = (dims_of(layer.weight) or (0,))[-1]
    assert isinstance(width, int)
    bias = layer.bias
    if bias is None:
        bias = add_constant(graph, numpy.zeros(width, dtype=numpy.float32), "no_bias")
    inputs = [layer.x, layer.weight, bias, *([] if added is None else [None, None, added])]
    back = output.reshape
    node = ir.node("Attention", inputs, attributes, domain=DOMAIN)
    node.outputs[0].name = f"{back.outputs[0].name}_attention"
    graph.insert_before(back, node)
    made = node.outputs[0]
    if output.seen is not None:
        heads = add_constant(graph, numpy.array([1]), "axis_of_heads")
        zero = add_constant(graph, numpy.zeros((), dtype=numpy.float32), "unseen")
        made = insert_before(
            graph, back, "Where", insert_before(graph, back, "Squeeze", output.seen, heads), made, zero
        )
    if _only_joins(back, layer.x):
        made.name = back.outputs[0].name
        replace(graph, back, made)
    else:
        back.replace_input_with(0, made)


def _only_joins(reshape: ir.Node, x: ir.Value) -> bool:
    """Whether the result is [batch, tokens, heads * width] for an input [batch, tokens, channels]."""
    dims, lead = dims_of(reshape.outputs[0]), dims_of(x)
    return dims is not None and lead is not None and len(dims) == 3 and same_dims(dims[:2], lead[:2])


def _reads_on(reshape: ir.Node) -> bool:
    """Whether a reshape of [batch, tokens, heads, width] gives the same of [batch, tokens, heads * width]."""
    sizes = constant_ints(reshape.inputs[1])
    return bool(int_attribute(reshape, "allowzero", 0)) or (sizes is not None and 0 not in sizes[2:])


def _scaled(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """Queries before they are multiplied by a constant, and that constant."""
    node = made_by(value, "Mul")
    if node is None:
        return None if value is None else (value, 1.0)
    number = constant_array(node.inputs[1], 1)
    source = node.inputs[0]
    return None if number is None or source is None or number.size != 1 else (source, float(number.reshape(-1)[0]))


def _keys(value: ir.Value | None) -> _Projection | None:
    """Keys whose last two axes change places."""
    node = made_by(value, "Transpose")
    if node is not None and ints_attribute(node, "perm") == [0, 1, 3, 2]:
        return _projection(node.inputs[0])
    return _projection(value, [0, 2, 3, 1])


def _projection(value: ir.Value | None, order: Sequence[int] = tuple(_HEADS)) -> _Projection | None:
    """Heads, transposed by ``order``, traced to a third of what one layer makes."""
    gather = made_by(value, "Gather")
    if gather is not None and list(order) == _HEADS:
        return _packed(gather)
    reshape = _before(value, order)
    split = made_by(reshape.inputs[0], "Split") if reshape is not None else None
    if reshape is None or split is None or int_attribute(split, "axis", 0) not in (2, -1) or len(split.outputs) != 3:
        return None
    lead = _leads(split.inputs[0], reshape, 4)
    heads, width = lead[2:] if lead is not None else (None, None)
    sizes = {(dims_of(part) or (None,))[-1] for part in split.outputs}
    if split.inputs[0] is None or not isinstance(heads, int) or not isinstance(width, int) or sizes != {heads * width}:
        return None
    return _Projection(split.inputs[0], list(split.outputs).index(reshape.inputs[0]), heads)  # type: ignore[arg-type]


def _packed(gather: ir.Node) -> _Projection | None:
    """One of three of ``transpose(reshape(linear, [batch, tokens, 3, heads, width]), [2, 0, 3, 1, 4])``."""
    place = constant_array(gather.inputs[1], 1)
    reshape = _before(gather.inputs[0], (2, 0, 3, 1, 4))
    lead = _leads(reshape.inputs[0], reshape, 5) if reshape is not None else None
    if reshape is None or lead is None or lead[2] != 3 or not isinstance(lead[3], int) or reshape.inputs[0] is None:
        return None
    if place is None or place.ndim or int_attribute(gather, "axis", 0) != 0:
        return None
    return _Projection(reshape.inputs[0], int(place), lead[3])


def _before(value: ir.Value | None, order: Sequence[int]) -> ir.Node | None:
    """The reshape that a transpose in this order reads."""
    node = made_by(value, "Transpose")
    return made_by(node.inputs[0], "Reshape") if node is not None and ints_attribute(node, "perm") == [*order] else None


def _leads(source: ir.Value | None, reshape: ir.Node, rank: int) -> tuple[Dim, ...] | None:
    """The shape that a reshape of [batch, tokens, channels] gives, where it only divides channels."""
    inner, outer = dims_of(source), dims_of(reshape.outputs[0])
    if inner is None or outer is None or len(inner) != 3 or len(outer) != rank:
        return None
    return outer if same_dims(inner[:2], outer[:2]) else None


def _layer(parts: Sequence[_Projection | None]) -> _Layer | None:
    """The layer that queries, keys and values are the three parts of."""
    first = parts[0]
    if first is None or list(parts) != [_Projection(first.linear, place, first.heads) for place in range(3)]:
        return None
    for product, bias in _sums(first.linear):
        node = made_by(product, "MatMul")
        x, weight = node.inputs if node is not None else (None, None)
        if x is None or weight is None or not _is_constant(weight, 2) or not (bias is None or _is_constant(bias, 1)):
            continue
        if len(dims_of(x) or ()) == 3 and x.dtype == ir.DataType.FLOAT:
            return _Layer(x, weight, bias)
    return None


def _is_constant(value: ir.Value, rank: int) -> bool:
    return value.const_value is not None and not value.is_graph_input() and len(dims_of(value) or ()) == rank


def _sums(value: ir.Value) -> Iterator[tuple[ir.Value, ir.Value | None]]:
    """(product, what is added to it) as a value may be meant."""
    node = value.producer()
    if node is None or not is_op(node, "Add"):
        yield value, None
        return
    for product, added in (node.inputs, node.inputs[::-1]):
        if product is not None:
            yield product, added


def _fits(added: ir.Value | None, x: ir.Value, heads: int) -> bool:
    """Whether the operator takes what is added to scores: [batch or 1, heads or 1, tokens, tokens]."""
    dims, (batch, tokens, _) = inferred_dims(added), dims_of(x) or (None, None, None)
    if added is None:
        return True
    if dims is None or len(dims) != 4 or added.dtype != ir.DataType.FLOAT:
        return False
    whole = dims[0] == 1 or same_dims(dims[:1], (batch,))
    return whole and dims[1] in (1, heads) and same_dims(dims[2:], (tokens, tokens))


def _output(result: ir.Value) -> _Output | None:
    """What joins heads behind the second product, [batch, heads, tokens, width], where nothing else reads them."""
    user, seen = _only(result), None
    if user is not None and is_op(user, "Where") and user.inputs[1] is result:
        seen, zero = user.inputs[0], constant_array(user.inputs[2], 1)
        dims = inferred_dims(seen)
        if zero is None or zero.size != 1 or zero.reshape(-1)[0] != 0 or dims is None or len(dims) != 4 or dims[1] != 1:
            return None
        user = _only(user.outputs[0])
    if user is None or not is_op(user, "Transpose") or ints_attribute(user, "perm") != _HEADS:
        return None
    reshape = _only(user.outputs[0])
    return _Output(reshape, seen) if reshape is not None and is_op(reshape, "Reshape") else None


def _only(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value."""
    return next(iter(value.uses())).node if only_use(value) else None
