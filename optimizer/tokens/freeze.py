"""Layers in which some tokens stand still: the others attend to them and move on (ShortV, arXiv:2504.00502)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, fx

from tersor.axes import Axes
from tersor.errors import RewriteError
from tersor.program import Program
from tersor.rewrite import annotate
from tersor.rewrite_arguments import set_argument
from tersor.rewrite_values import arguments, fake, tensor
from tersor.tokens.attention import causal
from tersor.tokens.axis import Apart, Tokens
from tersor.tokens.carry import Carrier
from tersor.tokens.cuts import Layer, features, passing
from tersor.tokens.graph import insert
from tersor.tokens.matrix import ends_of
from tersor.tokens.stage import Stage


@dataclass(frozen=True)
class Span:
    """A layer from the sequence that it reads to the one that it gives, with nothing passing either by.

    Attributes:
        layer: the attention in between.
        start, end: names of nodes (samples, tokens, features).
    """

    layer: Layer
    start: str
    end: str


def spans(program: Program, axes: Axes, found: Sequence[Layer]) -> list[Span]:
    """The layers of one token axis but for the last, whose result is the model's."""
    order = {node: place for place, node in enumerate(program.nodes)}
    joints = list(_joints(program, axes, found[0].tokens, order))
    ends = [
        max((order[node] for node in joints if order[node] < order[layer.attention]), default=-1) for layer in found
    ]
    names = list(order)
    pairs = zip(found, ends, ends[1:], strict=False)
    return [Span(layer, names[start].name, names[end].name) for layer, start, end in pairs if 0 <= start < end]


def _joints(program: Program, axes: Axes, tokens: Tokens, order: dict[fx.Node, int]) -> Iterator[fx.Node]:
    """Sequences that everything known of the tokens' features passes through."""
    streams = passing(axes, tokens, features(program, axes), order)
    for node, place in order.items():
        if tokens.is_sequence(axes, node) and not any(made < place < end for _, made, end in streams):
            yield node


def freeze(program: Program, axes: Axes, span: Span) -> None:
    """Edit ``program`` in place so that only protected tokens change in a layer; RewriteError where that cannot be."""
    nodes = {node.name: node for node in program.nodes}
    start, end = nodes[span.start], nodes[span.end]
    attention, tokens = nodes[span.layer.attention.name], span.layer.tokens
    walk = Carrier(program, axes, tokens, features(program, axes), strict=True)
    walk.rules = {"scaled_dot_product_attention": partial(_attend, tokens=tokens)}
    _divide(walk, start, attention)
    for node in list(program.graph.nodes):
        if not node._erased:
            walk.visit(node)
        if node is end:
            break
    if end.name not in walk.stages:
        raise RewriteError(f"{end.name} does not depend on the attention {attention.name}")
    readers = list(end.users)
    whole = insert(program, end.next, partial(_whole, first=tokens.first, last=tokens.last), end, start)
    walk.known_as(whole, end)
    for user in readers:
        user.replace_input_with(end, whole)
    program.changed()


def _divide(walk: Carrier, start: fx.Node, attention: fx.Node) -> None:
    """Keys and values are made of all tokens; everything else in the layer reads those that are not frozen."""
    given = arguments(attention)
    inside = _made_of(start, [given["key"], given["value"]])
    tokens = walk.tokens
    stage = Stage(start, start, start, start, None, False, False, ends=(tokens.first, tokens.last))
    for node in inside:
        if tensor(node) is None or not tokens.holds(walk.axes, node):
            continue
        readers = [user for user in node.users if user not in inside and user is not attention]
        asks = given["query"] is node
        if not readers and not asks:
            continue
        run = walk.run(node)
        if run is None or not run.whole:
            raise Apart(f"tokens of {node.name} are not in a row")
        taken = insert(
            walk.program, node.next, partial(ends_of, dim=run.dim, first=tokens.first, last=tokens.last), node
        )
        walk.known_as(taken, node)
        walk.stages[taken.name] = stage
        for user in readers:
            user.replace_input_with(node, taken)
        if asks:
            set_argument(attention, "query", taken)


def _made_of(start: fx.Node, wanted: Sequence[fx.Node]) -> list[fx.Node]:
    """``start`` and what is made of it on the way to some nodes, in order."""
    above, waiting = {start, *wanted}, list(wanted)
    while waiting:
        for item in waiting.pop().all_input_nodes:
            if item not in above:
                above.add(item)
                waiting.append(item)
    inside, node = [start], start.next
    while node.op != "root":
        if node in above and any(item in inside for item in node.all_input_nodes):
            inside.append(node)
        node = node.next
    return inside


def _attend(walk: Carrier, node: fx.Node, tokens: Tokens) -> None:
    """Queries of the tokens that move over the keys of all."""
    given, stage = arguments(node), walk.stage_of(node)
    if any(given[name].name in walk.stages for name in ("key", "value")):
        raise RewriteError("it attends to tokens of another layer")
    rows = partial(ends_of, dim=-2, first=tokens.first, last=tokens.last)
    mask = given["attn_mask"]
    if given["is_causal"]:
        mask = insert(walk.program, node, lambda keys: rows(causal(keys, keys)), given["key"])
        set_argument(node, "is_causal", False)
    elif isinstance(mask, fx.Node) and fake(mask).shape[-2] != 1:
        mask = insert(walk.program, node, rows, mask)
    set_argument(node, "attn_mask", mask)
    annotate(node, node)
    walk.stages[node.name] = stage


def _whole(moved: Tensor, before: Tensor, first: int, last: int) -> Tensor:
    """All tokens [B, T, C]: those that moved [B, first + last, C], and between them the frozen ones as they were."""
    still = before[:, first : before.shape[1] - last]
    return torch.cat([moved[:, :first], still, moved[:, first:]], dim=1)
