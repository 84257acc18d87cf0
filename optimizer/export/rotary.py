"""Rotary position embeddings as one node (Su et al., arXiv:2104.09864), which ONNX has from opset 23 on.

Models turn pairs of channels: one of each half of a head, or two neighbours (interleaved). They do it over the whole
head, ``x * cos + rotated(x) * sin`` with each pair's angle twice in the tables, or part by part, or as complex numbers.
RotaryEmbedding reads each pair's angle once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy
import onnx_ir as ir

from tersor.export.dims import inferred_dims
from tersor.export.edit import (
    Dim,
    add_constant,
    along_last,
    apply_rules,
    insert_before,
    is_op,
    made_by,
    replace,
    same_dims,
)
from tersor.export.rotary_parts import (
    factors,
    halves_of,
    is_rotated_in_halves,
    is_rotated_in_pairs,
    neighbours_of,
    repeats,
    stacked,
    width_of,
)

OPSET = 23
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_Whole = Callable[[ir.Value | None, ir.Value | None], ir.Value | None]
"""What two values are the parts of."""


@dataclass(frozen=True)
class Turn:
    """What is turned, [batch, heads, tokens, width], and cosine and sine, with each pair's angle once or twice.

    ``thin`` angles have a last axis of one element more.
    """

    x: ir.Value
    cos: ir.Value
    sin: ir.Value
    interleaved: bool = False
    thin: bool = False


def fuse_rotary(graph: ir.Graph) -> bool:
    """Write rotary embeddings as RotaryEmbedding where the file's opset has it; True where something changed."""
    if graph.opset_imports.get("", 0) < OPSET:
        return False
    return apply_rules(graph, dict.fromkeys(_SPELLINGS, _rewrite))


def _rewrite(graph: ir.Graph, node: ir.Node) -> bool:
    turn = turn_of(node)
    return turn is not None and _put(graph, node, turn)


def turn_of(node: ir.Node) -> Turn | None:
    """What a node turns, as the last of those that a rotary embedding is spelled in; None where it does not."""
    turn = _SPELLINGS[node.op_type](node) if is_op(node, *_SPELLINGS) else None
    return turn if turn is not None and _is_turnable(turn) else None


def _whole(node: ir.Node) -> Turn | None:
    """``x * cos + rotated * sin``, of which the rotated are ``(-second, first)`` of each pair."""
    for plain, turned in (node.inputs, node.inputs[::-1]):
        for x, cos in factors(plain):
            for rotated, sin in factors(turned):
                for interleaved in (False, True):
                    is_rotated = is_rotated_in_pairs if interleaved else is_rotated_in_halves
                    if is_rotated(rotated, x) and repeats(cos, interleaved) and repeats(sin, interleaved):
                        return Turn(x, cos, sin, interleaved)
    return None


def _by_halves(node: ir.Node) -> Turn | None:
    """``concat(first * cos - second * sin, second * cos + first * sin)``."""
    dims = inferred_dims(node.outputs[0])
    if len(node.inputs) != 2 or dims is None or not along_last(node, len(dims)):
        return None
    found = _turned(node.inputs[0], node.inputs[1], halves_of)
    return None if found is None else Turn(*found)


def _by_pairs(node: ir.Node) -> Turn | None:
    """The same of neighbours, stacked along a new last axis that is joined with the one before it."""
    parts = stacked(node.outputs[0])
    if parts is None:
        return None
    thin = made_by(parts[0], "Unsqueeze") is None
    first, second = parts if thin else (value.producer().inputs[0] for value in parts)  # type: ignore[union-attr]
    found = _turned(first, second, neighbours_of)
    if found is None or not same_dims(inferred_dims(node.outputs[0]), inferred_dims(found[0])):
        return None
    return Turn(*found, interleaved=True, thin=thin)


_SPELLINGS = {"Add": _whole, "Concat": _by_halves, "Reshape": _by_pairs}
"""By the operator that comes last."""


def _turned(low: ir.Value | None, high: ir.Value | None, whole: _Whole) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """x, cos and sin of ``first * cos - second * sin`` and ``second * cos + first * sin``."""
    difference, total = made_by(low, "Sub"), made_by(high, "Add")
    if difference is None or total is None:
        return None
    made = {frozenset(map(id, pair)) for value in total.inputs for pair in factors(value)}
    for first, cos in factors(difference.inputs[0]):
        for second, sin in factors(difference.inputs[1]):
            wanted = {frozenset((id(second), id(cos))), frozenset((id(first), id(sin)))}
            x = whole(first, second)
            if x is not None and made == wanted:
                return x, cos, sin
    return None


def _is_turnable(turn: Turn) -> bool:
    """Whether ONNX has it: numbers of four axes, and angles of tokens."""
    dims, width = inferred_dims(turn.x), width_of(turn.x)
    if dims is None or len(dims) != 4 or width is None or width % 2 or turn.x.dtype not in _FLOATS:
        return False
    both = (turn.cos, turn.sin)
    return all(angles.dtype == turn.x.dtype and _fits(angle_dims(turn, angles), dims) for angles in both)


def _put(graph: ir.Graph, node: ir.Node, turn: Turn) -> bool:
    tables = [_table(graph, node, turn, angles) for angles in (turn.cos, turn.sin)]
    result = insert_before(graph, node, "RotaryEmbedding", turn.x, *tables, interleaved=int(turn.interleaved))
    result.name = node.outputs[0].name
    replace(graph, node, result)
    return True


def angle_dims(turn: Turn, angles: ir.Value) -> tuple[Dim, ...] | None:
    """The shape of angles, without the element more of thin ones."""
    dims = inferred_dims(angles)
    if not turn.thin or dims is None:
        return dims
    return dims[:-1] if dims[-1:] == (1,) else None


def _fits(angles: tuple[Dim, ...] | None, dims: tuple[Dim, ...]) -> bool:
    """Whether angles are those of tokens: equal for all heads, for each token, of half the width or of all."""
    if angles is None or not 2 <= len(angles) <= 4 or not isinstance(dims[-1], int):
        return False
    whole = (1,) * (4 - len(angles)) + angles
    batch = whole[0] == 1 or same_dims(whole[:1], dims[:1])
    return batch and whole[1] == 1 and same_dims(whole[2:3], dims[2:3]) and whole[3] in (dims[-1], dims[-1] // 2)


def _table(graph: ir.Graph, node: ir.Node, turn: Turn, angles: ir.Value) -> ir.Value:
    """Angles as [batch, tokens, half the width]."""
    add = partial(insert_before, graph, node)
    dims, batch = angle_dims(turn, angles) or (), (inferred_dims(turn.x) or (1,))[0]
    angles = halved(graph, node, turn, angles)
    if len(dims) != 3:
        one = _ints(graph, 1 if len(dims) == 4 else 0)
        angles = add("Squeeze" if len(dims) == 4 else "Unsqueeze", angles, one)
    if batch == 1 or (len(dims) == 4 and dims[0] != 1):
        return angles
    if isinstance(batch, int):
        return add("Expand", angles, _ints(graph, batch, 1, 1))
    return add("Expand", angles, add("Concat", add("Shape", turn.x, start=0, end=1), _ints(graph, 1, 1), axis=0))


def halved(graph: ir.Graph, node: ir.Node, turn: Turn, angles: ir.Value) -> ir.Value:
    """Angles with each pair's once along the last axis, in front of a node."""
    dims, width = angle_dims(turn, angles) or (), width_of(turn.x) or 0
    if turn.thin:
        return insert_before(graph, node, "Squeeze", angles, _ints(graph, len(dims)))
    if dims[-1] != width:
        return angles
    end, step = (width, 2) if turn.interleaved else (width // 2, 1)
    places = [_ints(graph, number) for number in (0, end, len(dims) - 1, step)]
    return insert_before(graph, node, "Slice", angles, *places)


def _ints(graph: ir.Graph, *values: int) -> ir.Value:
    return add_constant(graph, numpy.array(values, dtype=numpy.int64), "angles")
