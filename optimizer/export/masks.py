"""Boolean masks of attention, as runtimes add them: what a mask needs is computed at its own size, once for all layers.

torch.onnx.export chooses between scores and minus infinity, and after the softmax between weights and zero where a row
saw nothing: three passes over scores of every head. ATen itself turns the mask into numbers and adds them. Where these
are finite, as in many models, no row is without weights and nothing has to be chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy
import onnx_ir as ir

from tersor.export.edit import (
    Dim,
    add_constant,
    apply_rules,
    constant_number,
    dims_of,
    insert_before,
    int_attribute,
    is_op,
    made_for_one,
    only_use,
    replace,
)


def add_masks(graph: ir.Graph) -> bool:
    """Rewrite attention under masks that are smaller than its scores; True where something changed."""
    return apply_rules(graph, {"MatMul": _masked})


_Hidden = tuple[ir.Node, ir.Value, ir.Value, ir.Value]
"""The node that hides scores, its mask, the scores, and minus infinity."""


def _masked(graph: ir.Graph, node: ir.Node) -> bool:
    """``where(isnan(w), 0, w) @ v`` with ``w = softmax(where(mask, scores, -inf))``, or with the mask added."""
    guard = made_for_one(node.inputs[0], "Where")
    test = None if guard is None else made_for_one(guard.inputs[0], "IsNaN")
    if guard is None or test is None or test.inputs[0] is not guard.inputs[2] or constant_number(guard.inputs[1]) != 0:
        return False
    weights = guard.inputs[2]
    softmax = weights.producer() if weights is not None else None
    if weights is None or softmax is None or len(weights.uses()) != 2 or weights.is_graph_output():
        return False
    if _finite(softmax):
        replace(graph, guard, weights)
        graph.remove(test, safe=True)
        return True
    found = _under_mask(softmax)
    if found is None:
        return False
    _rewrite(graph, node, guard, found)
    for left in (guard, test):
        graph.remove(left, safe=True)
    return True


def _rewrite(graph: ir.Graph, node: ir.Node, guard: ir.Node, found: _Hidden) -> None:
    """Add the mask as numbers, and put zeros into rows that see nothing behind the second product."""
    hidden, mask, scores, infinity = found
    _, zero, weights = guard.inputs
    add = partial(insert_before, graph, hidden)
    axis = add_constant(graph, numpy.array([-1]), f"{node.name}_axis")
    numbers = add("Cast", mask, to=int(ir.DataType.FLOAT))
    seen = add("Cast", add("ReduceMax", numbers, axis, keepdims=1), to=int(ir.DataType.BOOL))
    shown = add("Or", mask, add("Not", seen))
    replace(graph, hidden, add("Add", scores, add("Where", shown, zero, infinity)))
    product = insert_before(graph, node, "MatMul", weights, node.inputs[1])
    product.shape, product.type = node.outputs[0].shape, node.outputs[0].type
    result = insert_before(graph, node, "Where", seen, product, zero)
    result.name = node.outputs[0].name
    replace(graph, node, result)


def _under_mask(softmax: ir.Node) -> _Hidden | None:
    """What hides scores in front of a softmax over the last axis, with its mask, scores and minus infinity."""
    data = softmax.inputs[0]
    hidden = data.producer() if only_use(data) and data is not None else None
    dims = dims_of(data)
    if hidden is None or dims is None or not is_op(softmax, "Softmax"):
        return None
    if int_attribute(softmax, "axis", -1) % len(dims) != len(dims) - 1:
        return None
    for scores, mask, infinity in _masks(hidden):
        if constant_number(infinity) == -math.inf and scores is not None and mask is not None and infinity is not None:
            return (hidden, mask, scores, infinity) if _smaller(dims_of(mask), dims) else None
    return None


def _finite(softmax: ir.Node) -> bool:
    """Whether what hides scores is added to them and finite: weights of finite scores are then numbers in every row."""
    hidden = softmax.inputs[0].producer() if is_op(softmax, "Softmax") and softmax.inputs[0] is not None else None
    found = list(_masks(hidden)) if is_op(hidden, "Add") and hidden is not None else []
    lowest = constant_number(found[0][2]) if len(found) == 1 else None
    return lowest is not None and math.isfinite(lowest)


def _masks(hidden: ir.Node) -> Iterator[tuple[ir.Value | None, ir.Value | None, ir.Value | None]]:
    """(scores, mask, what stands for hidden scores) as they may be meant."""
    if is_op(hidden, "Where"):
        yield hidden.inputs[1], hidden.inputs[0], hidden.inputs[2]
    elif is_op(hidden, "Add"):
        for scores, bias in (hidden.inputs, hidden.inputs[::-1]):
            choice = bias.producer() if bias is not None else None
            if choice is not None and is_op(choice, "Where") and constant_number(choice.inputs[1]) == 0:
                yield scores, choice.inputs[0], choice.inputs[2]


def _smaller(mask: tuple[Dim, ...] | None, scores: tuple[Dim, ...] | None) -> bool:
    """Whether a mask has one row for several of the scores'."""
    if mask is None or scores is None or len(mask) > len(scores):
        return False
    return any(one == 1 and all_ != 1 for one, all_ in zip(mask[::-1], scores[::-1], strict=False)) or (
        len(mask) < len(scores)
    )
