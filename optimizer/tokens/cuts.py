"""Where tokens can be reduced: behind an attention, at the first node that everything on tokens passes through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tersor.axes import Axes
from tersor.axes.terms import Term, leaves, resolve, size
from tersor.cost.shapes import hint
from tersor.program import Program
from tersor.rewrite_values import arguments, fake, key, tensor
from tersor.tokens.attend import is_attention
from tersor.tokens.axis import Apart, Tokens

Stay = tuple[int | None, int | None]
"""Tokens that stay in front and behind, None where they are to be found."""


@dataclass(frozen=True)
class Layer:
    """An attention of tokens over themselves, and where they may be reduced.

    Attributes:
        attention: the node.
        tokens: the axis that it runs over.
        behind: the first node behind it that everything on tokens passes through.
        before: the node that queries, keys and values are made of; None where they come from different ones.
    """

    attention: fx.Node
    tokens: Tokens
    behind: fx.Node
    before: fx.Node | None


def attentions(program: Program) -> list[fx.Node]:
    """All attention nodes, in order."""
    return [node for node in program.nodes if is_attention(node)]


def layers(program: Program, axes: Axes, stay: Stay = (None, None)) -> Iterator[tuple[fx.Node, Layer | str]]:
    """Every attention with what it offers, or why its tokens cannot be reduced."""
    stream = features(program, axes)
    order = {node: place for place, node in enumerate(program.nodes)}
    for node in attentions(program):
        tokens = token_axis(program, axes, node, stay)
        yield node, tokens if isinstance(tokens, str) else _layer(axes, node, tokens, stream, order)


def token_axis(program: Program, axes: Axes, node: fx.Node, stay: Stay = (None, None)) -> Tokens | str:
    """The token axis of one attention, or why it has none.

    Args:
        stay: tokens in front and behind to protect; None finds class, distillation and register tokens, and words.
    """
    given = arguments(node)
    query, keys = (axes.values.get(given[name].name) for name in ("query", "key"))
    if not isinstance(query, tuple) or not isinstance(keys, tuple) or len(query) not in (3, 4):
        return "its operands are not (samples, heads, tokens, features)"
    if resolve(query[-2]) != resolve(keys[-2]):
        return "its queries are other tokens than its keys"
    if given["dropout_p"]:
        return "it drops out at random"
    length = hint(fake(given["key"]).shape[-2])
    if length is None:
        return "the number of tokens depends on data"
    tokens = Tokens(keys[-2], query[0])
    try:
        front, back = tokens.front, tokens.back
    except Apart as error:
        return str(error)
    read = [_from_the_end(place, tokens.total) for place in _read(program, axes, tokens)]
    front = max([front, *(place + 1 for place in read if place >= 0)])
    back = max([back, *(-place for place in read if place < 0)])
    first, last = stay
    return Tokens(keys[-2], query[0], front if first is None else first, back if last is None else last)


def _read(program: Program, axes: Axes, tokens: Tokens) -> Iterator[int]:
    """Positions that are read by number, such as a class token's."""
    for node in program.nodes:
        if key(node) != "select" or not isinstance(node.args[2], int):
            continue
        source = node.args[0]
        assert isinstance(source, fx.Node)
        dims = axes.values.get(source.name)
        if isinstance(dims, tuple) and resolve(dims[int(node.args[1])]) == resolve(tokens.term):  # type: ignore[arg-type]
            yield node.args[2]


def _from_the_end(place: int, total: Any) -> int:
    """A position counted from the end, as a negative number, where it is nearer to it.

    >>> _from_the_end(12, 13), _from_the_end(1, 13)
    (-1, 1)
    """
    return place - total if isinstance(total, int) and place >= (total + 1) // 2 else place


def features(program: Program, axes: Axes) -> frozenset[str]:
    """Names of nodes that hold features of tokens: what values are made of, and what depends on an attention."""
    nodes = attentions(program)
    found = set(nodes)
    for node in program.nodes:
        if tensor(node) is not None and any(item in found for item in node.all_input_nodes):
            found.add(node)
    waiting = [item for node in nodes if isinstance(item := arguments(node)["value"], fx.Node)]
    while waiting:
        item = waiting.pop()
        if item not in found and item.op == "call_function":
            found.add(item)
            waiting += item.all_input_nodes
    return frozenset(node.name for node in found)


def _layer(axes: Axes, node: fx.Node, tokens: Tokens, stream: frozenset[str], order: dict[fx.Node, int]) -> Layer | str:
    behind = _behind(axes, node, tokens, stream, order)
    if behind is None:
        if _windowed(axes, node, tokens, stream):
            return "it runs inside windows, and windows cannot lose different tokens"
        return "no node behind it has all tokens as (samples, tokens, features)"
    return Layer(node, tokens, behind, _before(axes, node, tokens, order))


def _windowed(axes: Axes, node: fx.Node, tokens: Tokens, stream: frozenset[str]) -> bool:
    """Whether the samples that it runs over are parts of a larger picture."""
    batch = resolve(tokens.batch)
    inner = {leaf for leaf in leaves(batch) if isinstance(leaf.size, int)}
    return len(list(leaves(batch))) > 1 and bool(inner)


def _behind(
    axes: Axes, start: fx.Node, tokens: Tokens, stream: frozenset[str], order: dict[fx.Node, int]
) -> fx.Node | None:
    """The first node at which nothing else that depends on the attention is waiting, and fewest streams pass it by."""
    after = {start}
    last: dict[fx.Node, int] = {}
    best: tuple[int, fx.Node] | None = None
    beside = passing(axes, tokens, stream, order)
    for node in list(order)[order[start] :]:
        if node is not start and not any(item in after for item in node.all_input_nodes):
            continue
        if node.op == "output" or (is_attention(node) and node is not start):
            break
        if not isinstance(node.meta.get("val"), torch.Tensor | list | tuple):
            continue
        after.add(node)
        last[node] = max((order[user] for user in node.users), default=-1)
        here = order[node]
        if any(end > here for item, end in last.items() if item is not node):
            continue
        if tokens.is_sequence(axes, node):
            bypass = sum(made < here < end and name not in after for name, made, end in beside)
            if best is None or bypass < best[0]:
                best = bypass, node
    return best[1] if best is not None else None


def passing(
    axes: Axes, tokens: Tokens, stream: frozenset[str], order: dict[fx.Node, int]
) -> list[tuple[fx.Node, int, int]]:
    """(node, where it is made, where it is last read) of streams of these tokens."""
    made = []
    for node, place in order.items():
        if node.name in stream and node.op == "call_function" and tokens.holds(axes, node):
            made.append((node, place, max((order[user] for user in node.users), default=-1)))
    return made


def _before(axes: Axes, node: fx.Node, tokens: Tokens, order: dict[fx.Node, int]) -> fx.Node | None:
    """The last sequence that queries, keys and values are all made of."""
    given = arguments(node)
    common: set[fx.Node] | None = None
    for name in ("query", "key", "value"):
        above = _ancestors(given[name], axes, tokens)
        common = above if common is None else common & above
    found = sorted(common or (), key=order.__getitem__)
    while found and key(found[-1]) == "linear":
        found.pop()
    return found[-1] if found else None


def _ancestors(node: fx.Node, axes: Axes, tokens: Tokens) -> set[fx.Node]:
    """Sequences above a node, not beyond another attention."""
    found, waiting, seen = set(), [node], {node}
    while waiting:
        current = waiting.pop()
        if tokens.is_sequence(axes, current) and current.op == "call_function":
            found.add(current)
        for item in current.all_input_nodes:
            if item not in seen and not is_attention(item):
                seen.add(item)
                waiting.append(item)
    return found


__all__ = ["Layer", "Term", "attentions", "features", "layers", "passing", "size", "token_axis"]
