"""Flow through attention: heads, head dimensions, queries and keys."""

from __future__ import annotations

import math

from torch import fx

from tersor.axes.elementwise import broadcast
from tersor.axes.flow import Dims, Flow, Value, rule, shape, where
from tersor.axes.select import Kept, touched
from tersor.axes.terms import Term, pin, quotient, same, size
from tersor.rewrite_values import arguments, fake


@rule("scaled_dot_product_attention")
def attention(node: fx.Node, flow: Flow) -> Value:
    """``softmax(q k / sqrt(d)) v`` over ``[..., heads, positions, d]``; query heads may share key heads."""
    given = arguments(node)
    query, key, value = (flow.dims(given[name]) for name in ("query", "key", "value"))
    flow.contract(node, given["query"], -1, key[-1])
    flow.tie(key[-2], value[-2])
    flow.span(node, key[-2])
    keys = _heads(flow, query, key), _heads(flow, query, value)
    batch = broadcast(flow, [query[:-2], *keys], shape(fake(node))[:-2])
    if isinstance(given["attn_mask"], fx.Node):
        broadcast(flow, [(*batch, query[-2], key[-2]), flow.dims(given["attn_mask"])], _scores(query, key))
    if len(query) > 3:
        flow.role(node, "head", key[-3])
    flow.role(node, "head-dim", query[-1])
    flow.role(node, "head-dim", value[-1])
    flow.role(node, "token", key[-2])
    if given["is_causal"]:
        for term in (query[-2], key[-2]):
            pin(term, where(node, "positions that see only earlier ones"))
    _keep_scale(node, flow, query[-1])
    return (*batch, query[-2], value[-1])


def _scores(query: Dims, key: Dims) -> tuple[object, ...]:
    return (*(size(term) for term in query[:-2]), size(query[-2]), size(key[-2]))


def _heads(flow: Flow, query: Dims, other: Dims) -> Dims:
    """Leading dimensions of keys or values, with as many heads as the queries have."""
    if len(other) < 4 or same(size(query[-3]), size(other[-3])) or size(other[-3]) == 1:
        return other[:-2]
    repeats = quotient(size(query[-3]), size(other[-3]))
    shared, _ = flow.split(query[-3], repeats or 1)
    flow.tie(shared, other[-3])
    return (*other[:-3], query[-3])


def _keep_scale(node: fx.Node, flow: Flow, inner: Term) -> None:
    """A scale that is not stated depends on the head dimension, and must stay what it was."""
    stated = arguments(node)["scale"]
    was = 1.0 / math.sqrt(int(size(inner))) if isinstance(size(inner), int) else None

    def scale(kept: Kept) -> object:
        return was if stated is None and touched(inner, kept) else stated

    flow.literal(node, "scale", scale)
