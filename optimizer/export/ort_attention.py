"""Self-attention as the one operator that ONNX Runtime has for it: ``com.microsoft::Attention``.

It takes the layer's input and the three projections' weights side by side, and keeps heads where they are made: no
transpose, split or copy. ONNX Runtime's own fusions look for the spellings of some exporters, and miss ours. Only ONNX
Runtime knows the operator, so files meant for others do not hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import onnx_ir as ir

from tersor.export.attention_parts import (
    DOMAIN,
    HEADS,
    Products,
    divided,
    heads_of_keys,
    is_bias,
    joined_by,
    products_of,
    put,
    sums,
    transposed,
)
from tersor.export.clean import remove_unused
from tersor.export.edit import (
    add_constant,
    apply_rules,
    constant_array,
    dims_of,
    int_attribute,
    is_op,
    made_by,
)
from tersor.export.ort_grouped import group


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


def with_whole_attention(model: ir.Model) -> ir.Model:
    """A copy, whose weights are shared, with self-attention as ONNX Runtime's node; the model itself where it has none.

    Masks that are added to scores may be computed.
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
    return any(_whole(graph, found) or group(graph, found) for found in products_of(softmax))


def _whole(graph: ir.Graph, found: Products) -> bool:
    parts = _projection(found.queries), _projection(*heads_of_keys(found.keys)), _projection(found.values)
    layer = _layer(parts)
    if layer is None or parts[0] is None or not joined_by(found.output, layer.x):
        return False
    if not is_bias(found.added, layer.x, parts[0].heads):
        return False
    _put(graph, layer, found, parts[0].heads)
    return True


def _put(graph: ir.Graph, layer: _Layer, found: Products, heads: int) -> None:
    width = (dims_of(layer.weight) or (0,))[-1]
    assert isinstance(width, int)
    bias = layer.bias
    if bias is None:
        bias = add_constant(graph, numpy.zeros(width, dtype=numpy.float32), "no_bias")
    inputs = [layer.x, layer.weight, bias, *([] if found.added is None else [None, None, found.added])]
    attributes = {"num_heads": heads, "scale": found.scale, "unidirectional": int(found.causal)}
    put(graph, found.output, layer.x, ir.node("Attention", inputs, attributes, domain=DOMAIN))


def _projection(value: ir.Value | None, order: Sequence[int] = HEADS) -> _Projection | None:
    """Heads, transposed by ``order``, traced to a third of what one layer makes."""
    gather = made_by(value, "Gather")
    if gather is not None and order == HEADS:
        return _packed(gather)
    reshape = transposed(value, order)
    split = made_by(reshape.inputs[0], "Split") if reshape is not None else None
    if reshape is None or split is None or int_attribute(split, "axis", 0) not in (2, -1) or len(split.outputs) != 3:
        return None
    lead = divided(split.inputs[0], reshape, 4)
    heads, width = lead[2:] if lead is not None else (None, None)
    sizes = {(dims_of(part) or (None,))[-1] for part in split.outputs}
    if split.inputs[0] is None or not isinstance(heads, int) or not isinstance(width, int) or sizes != {heads * width}:
        return None
    return _Projection(split.inputs[0], list(split.outputs).index(reshape.inputs[0]), heads)  # type: ignore[arg-type]


def _packed(gather: ir.Node) -> _Projection | None:
    """One of three of ``transpose(reshape(linear, [batch, tokens, 3, heads, width]), [2, 0, 3, 1, 4])``."""
    place = constant_array(gather.inputs[1], 1)
    reshape = transposed(gather.inputs[0], (2, 0, 3, 1, 4))
    lead = divided(reshape.inputs[0], reshape, 5) if reshape is not None else None
    if reshape is None or lead is None or lead[2] != 3 or not isinstance(lead[3], int) or reshape.inputs[0] is None:
        return None
    if place is None or place.ndim or int_attribute(gather, "axis", 0) != 0:
        return None
    return _Projection(reshape.inputs[0], int(place), lead[3])


def _layer(parts: Sequence[_Projection | None]) -> _Layer | None:
    """The layer that queries, keys and values are the three parts of."""
    first = parts[0]
    if first is None or list(parts) != [_Projection(first.linear, place, first.heads) for place in range(3)]:
        return None
    for product, bias in sums(first.linear):
        node = made_by(product, "MatMul")
        x, weight = node.inputs if node is not None else (None, None)
        if x is None or weight is None or not _is_constant(weight, 2) or not (bias is None or _is_constant(bias, 1)):
            continue
        if len(dims_of(x) or ()) == 3 and x.dtype == ir.DataType.FLOAT:
            return _Layer(x, weight, bias)
    return None


def _is_constant(value: ir.Value, rank: int) -> bool:
    return value.const_value is not None and not value.is_graph_input() and len(dims_of(value) or ()) == rank
