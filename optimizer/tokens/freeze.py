"""Layers that compute only some tokens: the others look on as keys and values, and pass unchanged (ShortV)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, fx

from tersor.axes import Axes
from tersor.axes.terms import UNIT
from tersor.errors import RewriteError
from tersor.factor.residual import blocks
from tersor.program import Program
from tersor.rewrite import erase_unused
from tersor.rewrite_arguments import set_argument
from tersor.rewrite_values import arguments, fake
from tersor.tokens.attend import Masks, attend
from tersor.tokens.axis import Tokens
from tersor.tokens.carry import Carrier
from tersor.tokens.graph import insert
from tersor.tokens.stage import Stage


def freeze(program: Program, axes: Axes, attention: fx.Node, tokens: Tokens, start: int, length: int) -> None:
    """Let ``length`` tokens from ``start`` on pass one layer unchanged, in place (ShortV, arXiv:2504.00502).

    The layer's attention still sees them as keys and values; queries, the output projection, the feed-forward block and
    both residual sums are computed for the others only. Raises RewriteError with the reason where that cannot be done.
    """
    stream, end = _layer(program, axes, attention, tokens)
    walk = Carrier(program, axes, tokens, frozenset())
    walk.rules = {"scaled_dot_product_attention": partial(attend, known=Masks(frozenset(), {}))}
    _spell_out_causal(walk, attention)
    query = arguments(attention)["query"]
    dim = fake(query).dim() - 2
    some, kept = insert(program, attention, partial(_some, dim=dim, start=start, length=length), query, stream)
    walk.known_as(some, query)
    walk.stages[some.name] = Stage(stream, some, kept, kept, None, padded=False, proportional=False)
    attention.replace_input_with(query, some)
    nodes = list(program.graph.nodes)
    for node in nodes[nodes.index(attention) : nodes.index(end) + 1]:
        walk.visit(node)
    if walk.restored or end.name not in walk.stages:
        raise RewriteError("its block needs all tokens", f"at {walk.restored[0]}" if walk.restored else "")
    readers = list(end.users)
    whole = insert(program, end.next, partial(_put, start=start, length=length), end, stream)
    walk.known_as(whole, end)
    for user in readers:
        user.replace_input_with(end, whole)
    _nothing_else(walk, nodes[nodes.index(end) + 1 :])
    erase_unused(program)
    program.changed()


def _layer(program: Program, axes: Axes, attention: fx.Node, tokens: Tokens) -> tuple[fx.Node, fx.Node]:
    """(stream that enters the layer, stream that leaves it)."""
    found = list(blocks(program))
    first = [block for block in found if attention in block.inner and tokens.is_sequence(axes, block.stream)]
    if not first:
        raise RewriteError("its attention is in no residual block")
    inner = min(first, key=lambda block: len(block.inner))
    second = [block for block in found if block.stream is inner.end]
    return inner.stream, min(second, key=lambda block: len(block.inner)).end if second else inner.end


def _spell_out_causal(walk: Carrier, attention: fx.Node) -> None:
    """A causal attention as one with a mask, whose rows can be chosen."""
    given = arguments(attention)
    if not given["is_causal"]:
        return
    mask = insert(walk.program, attention, _causal, given["query"], given["key"])
    term = walk.tokens.term
    walk.axes.values[mask.name] = (UNIT, UNIT, term, term)
    set_argument(attention, "attn_mask", mask)
    set_argument(attention, "is_causal", False)


def _causal(query: Tensor, key: Tensor) -> Tensor:
    rows, columns = (torch.arange(item.shape[-2], device=query.device) for item in (query, key))
    return (columns[None, :] <= rows[:, None])[None, None]


def _some(query: Tensor, stream: Tensor, dim: int, start: int, length: int) -> tuple[Tensor, Tensor]:
    """Queries without those tokens, and the positions [B, K] of the others."""
    place = torch.arange(stream.shape[1], device=query.device)
    kept = _cut(place[None], 1, start, length).expand(stream.shape[0], stream.shape[1] - length)
    return _cut(query, dim, start, length), kept


def _cut(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    front = x.narrow(dim, 0, start)
    behind = x.narrow(dim, start + length, x.shape[dim] - start - length)
    return torch.cat([front, behind], dim=dim)


def _put(some: Tensor, stream: Tensor, start: int, length: int) -> Tensor:
    """All tokens: the others as they are now, those as they were."""
    return torch.cat([some[:, :start], stream[:, start : start + length], some[:, start:]], dim=1)


def _nothing_else(walk: Carrier, later: list[fx.Node]) -> None:
    for node in later:
        if not node._erased and walk.reduced(node):
            raise RewriteError(f"{node.name} reads something from inside the layer")
