"""Attention as ONNX Runtime's operator for heads that share keys and values: ``com.microsoft::GroupQueryAttention``.

It takes queries, keys and values as their layers make them, [batch, tokens, heads * width], turns the first two by
rotary embeddings, and reads keys and values of fewer heads without repeating them (Ainslie et al., arXiv:2305.13245).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy
import onnx_ir as ir
import onnxruntime

from tersor.export.attention_parts import (
    DOMAIN,
    HEADS,
    Products,
    divided,
    heads_of_keys,
    is_bias,
    joined_by,
    put,
    transposed,
)
from tersor.export.dims import inferred_dims
from tersor.export.edit import (
    Dim,
    add_constant,
    constant_array,
    constant_ints,
    dims_of,
    insert_before,
    made_by,
    same_dims,
)
from tersor.export.rotary import Turn, angle_dims, halved, turn_of

SINCE = (1, 31)
"""The first release tried whose operator need not be causal."""

_STEP, _TURNED_STEP = 8, 16
"""The operator takes heads whose width is a multiple of the first, and turns those of the second."""

_LIMIT = 1 << 24


@dataclass(frozen=True)
class _Heads:
    """Heads as [batch, heads, tokens, width] of ``source``, [batch, tokens, heads * width], and how they are turned."""

    source: ir.Value
    count: int
    width: int
    turn: Turn | None


def group(graph: ir.Graph, found: Products) -> bool:
    """Replace attention by the operator; True where it was."""
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < SINCE:
        return False
    keys, order = heads_of_keys(found.keys)
    parts = _heads(found.queries), _heads(_before_repeats(keys), order), _heads(_before_repeats(found.values))
    if not all(parts) or not _fit(found, *parts):  # type: ignore[arg-type]
        return False
    _put(graph, found, *parts)  # type: ignore[arg-type]
    return True


def _heads(value: ir.Value | None, order: Sequence[int] = HEADS) -> _Heads | None:
    node = value.producer() if value is not None else None
    turn = turn_of(node) if node is not None else None
    reshape = transposed(value if turn is None else turn.x, order)
    source = reshape.inputs[0] if reshape is not None else None
    dims = divided(source, reshape, 4) if reshape is not None else None
    count, width = dims[2:] if dims is not None else (None, None)
    if source is None or not isinstance(count, int) or not isinstance(width, int) or source.dtype != ir.DataType.FLOAT:
        return None
    return _Heads(source, count, width, turn)


def _before_repeats(value: ir.Value | None) -> ir.Value | None:
    """Heads before each is repeated: ``reshape(expand(unsqueeze(x, 2)))``."""
    joined = made_by(value, "Reshape")
    repeated = made_by(joined.inputs[0], "Expand") if joined is not None else None
    alone = made_by(repeated.inputs[0], "Unsqueeze") if repeated is not None else None
    if alone is None or repeated is None or constant_ints(alone.inputs[1]) != [2]:
        return value
    few, between, many = inferred_dims(alone.inputs[0]), dims_of(repeated.outputs[0]), inferred_dims(value)
    if few is None or between is None or many is None or (len(few), len(between), len(many)) != (4, 5, 4):
        return value
    kept = same_dims((*few[:2], *few[2:]), (*between[:2], *between[3:])) and same_dims(few[2:], many[2:])
    return alone.inputs[0] if kept and same_dims(few[:1], many[:1]) else value


def _fit(found: Products, queries: _Heads, keys: _Heads, values: _Heads) -> bool:
    """Whether the three are as the operator wants them: of the same tokens and width, turned by the same angles."""
    parts = queries, keys, values
    leads = [(dims_of(part.source) or (None, None))[:2] for part in parts]
    same = all(same_dims(leads[0], lead) for lead in leads) and len({part.width for part in parts}) == 1
    if not same or keys.count != values.count or queries.count % keys.count or values.turn is not None:
        return False
    if queries.width % (_STEP if queries.turn is None else _TURNED_STEP):
        return False
    fits = joined_by(found.output, queries.source) and is_bias(found.added, queries.source, queries.count)
    return fits and _same_turn(queries.turn, keys.turn)


def _same_turn(one: Turn | None, other: Turn | None) -> bool:
    """Whether neither is turned, or both by the same angles, which are the same for all of a batch."""
    if one is None or other is None:
        return one is other
    pairs = (one.cos, other.cos), (one.sin, other.sin)
    alike = (one.interleaved, one.thin) == (other.interleaved, other.thin)
    return alike and all(_equal(*pair) and _are_of_tokens(one, pair[0]) for pair in pairs)


def _equal(one: ir.Value, other: ir.Value) -> bool:
    if one is other:
        return True
    first, second = constant_array(one, _LIMIT), constant_array(other, _LIMIT)
    return first is not None and second is not None and numpy.array_equal(first, second)


def _are_of_tokens(turn: Turn, angles: ir.Value) -> bool:
    dims: tuple[Dim, ...] = angle_dims(turn, angles) or ()
    return len(dims) > 1 and all(size == 1 for size in dims[:-2])


def _put(graph: ir.Graph, found: Products, queries: _Heads, keys: _Heads, values: _Heads) -> None:
    back = found.output.reshape
    attributes: dict[str, int | float] = {"num_heads": queries.count, "kv_num_heads": keys.count}
    attributes |= {"scale": found.scale, "causal": int(found.causal)}
    tables: list[ir.Value | None] = [None, None]
    if queries.turn is not None:
        tables = [_table(graph, back, queries.turn, angles) for angles in (queries.turn.cos, queries.turn.sin)]
        attributes |= {"do_rotary": 1, "rotary_interleaved": int(queries.turn.interleaved)}
    lengths = _lengths(graph, back, queries.source)
    sources = [part.source for part in (queries, keys, values)]
    inputs = [*sources, None, None, *lengths, *tables, None, found.added]
    put(graph, found.output, queries.source, ir.node("GroupQueryAttention", inputs, attributes, domain=DOMAIN))


def _table(graph: ir.Graph, before: ir.Node, turn: Turn, angles: ir.Value) -> ir.Value:
    """Angles as [tokens, half the width]."""
    extra = len(angle_dims(turn, angles) or ()) - 2
    made = halved(graph, before, turn, angles)
    if not extra:
        return made
    return insert_before(graph, before, "Squeeze", made, add_constant(graph, numpy.arange(extra), "axes_of_one"))


def _lengths(graph: ir.Graph, before: ir.Node, source: ir.Value) -> tuple[ir.Value, ir.Value]:
    """How many tokens there are but one, for each of the batch, and how many there are."""
    batch, tokens = (dims_of(source) or (None, None))[:2]
    if isinstance(batch, int) and isinstance(tokens, int):
        each = add_constant(graph, numpy.full(batch, tokens - 1, dtype=numpy.int32), "last_tokens")
        return each, add_constant(graph, numpy.array(tokens, dtype=numpy.int32), "tokens")
    add = partial(insert_before, graph, before)
    zero, one = (
        add_constant(graph, array, "number") for array in (numpy.array([0]), numpy.array(1, dtype=numpy.int32))
    )
    length = add("Cast", add("Squeeze", add("Shape", source, start=1, end=2), zero), to=int(ir.DataType.INT32))
    return add("Expand", add("Sub", length, one), add("Shape", source, start=0, end=1)), length
