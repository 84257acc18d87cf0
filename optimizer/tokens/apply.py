"""Reduction steps put into a graph behind layers, and everything behind them carried along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, fx

from tersor.axes import Axes
from tersor.errors import RewriteError
from tersor.program import Program
from tersor.rewrite import erase_unused
from tersor.rewrite_values import arguments, fake, key
from tersor.tokens.attend import Masks, attend, scale_of, visible
from tersor.tokens.attention import of_first, of_last, probabilities
from tersor.tokens.axis import Tokens
from tersor.tokens.carry import Carrier
from tersor.tokens.cuts import Layer, features
from tersor.tokens.graph import insert
from tersor.tokens.stage import Stage
from tersor.tokens.step import Step

WORK = frozenset({"linear", "matmul", "scaled_dot_product_attention", "bmm", "addmm", "mm"})


@dataclass(frozen=True)
class Site:
    """A layer, what is done there, and whether around its attention only.

    Attributes:
        around: tokens are reduced before the attention and put back behind it.
    """

    layer: Layer
    step: Step
    proportional: bool = True
    around: bool = False

    @property
    def at(self) -> fx.Node:
        """The node whose tokens are reduced."""
        if not self.around:
            return self.layer.behind
        assert self.layer.before is not None
        return self.layer.before


@dataclass(frozen=True)
class Applied:
    """What a walk left.

    Attributes:
        restored: nodes for which all tokens were put back.
        work: products that now have fewer tokens.
    """

    restored: tuple[str, ...]
    work: int


def apply(program: Program, axes: Axes, tokens: Tokens, sites: Sequence[Site], known: Masks) -> Applied:
    """Edit ``program`` in place; raises RewriteError with the reason where it cannot be done."""
    walk = Carrier(program, axes, tokens, features(program, axes))
    walk.rules = {"scaled_dot_product_attention": partial(attend, known=known)}
    waiting: Mapping[str, Site] = {site.at.name: site for site in sites}
    nodes = {node.name: node for node in program.nodes}
    work = 0
    for node in list(program.graph.nodes):
        if node._erased:
            continue
        walk.visit(node)
        work += key(node) in WORK and any(item.name in walk.stages for item in node.all_input_nodes)
        site = waiting.get(node.name)
        if site is not None:
            _cut(walk, node, site, nodes, known)
    erase_unused(program)
    program.prune_weights()
    program.changed()
    return Applied(tuple(walk.restored), work)


def _cut(walk: Carrier, node: fx.Node, site: Site, nodes: Mapping[str, fx.Node], known: Masks) -> None:
    """Reduce the tokens of ``node`` for everything that reads it."""
    attention = nodes[site.layer.attention.name]
    before, stage = node.next, walk.stages.get(node.name)
    readers = [user for user in node.users if stage is not None or user.op != "output"]
    if site.around:
        inside = _above(attention)
        readers = [user for user in readers if user in inside]
    padded = known.padded
    size = stage.size if stage is not None else _sizes(walk.program, before, node, attention) if padded else None
    weights = None
    metric = node if site.around else arguments(attention)["key"]
    if not site.around:
        weights = _weights(walk, attention, site.step.method.needs, known)
    step = Step(
        site.step.method, site.step.rate, site.step.first, site.step.last, site.step.depth, padded, site.step.grid
    )
    place, kept = (None, None) if stage is None else (stage.place, stage.kept)
    made = insert(walk.program, before, step, node, metric, weights, size, place, kept)
    full = stage.full if stage is not None else node
    walk.known_as(made[0], node)
    walk.stages[made[0].name] = Stage(full, made[0], made[1], made[2], made[3], padded, site.proportional)
    for user in readers:
        user.replace_input_with(node, made[0])


def _above(attention: fx.Node) -> set[fx.Node]:
    """What queries, keys and values of an attention are made of."""
    found: set[fx.Node] = set()
    waiting = [arguments(attention)[name] for name in ("query", "key", "value")]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _sizes(program: Program, before: fx.Node, node: fx.Node, attention: fx.Node) -> fx.Node:
    """[B, T, 1] sizes at first: 1, and 0 for padding."""
    mask = arguments(attention)["attn_mask"]
    if not isinstance(mask, fx.Node):
        raise RewriteError(f"{attention.name} has no padding mask, and other layers have one")

    def sizes(x: Tensor, mask: Tensor) -> Tensor:
        seen = visible(mask)
        row = seen.reshape([-1, seen.shape[-2], seen.shape[-1]])[:, 0] if seen.dim() < 4 else seen[:, 0, 0]
        return row.expand(x.shape[0], x.shape[1]).to(x.dtype)[:, :, None]

    made = insert(program, before, sizes, node, mask)
    assert isinstance(made, fx.Node)
    return made


def _weights(walk: Carrier, attention: fx.Node, needs: str, known: Masks) -> fx.Node | None:
    """Attention weights before the attention; all of them replace it, so that they are computed once."""
    if needs == "keys":
        return None
    given, scale = arguments(attention), scale_of(attention)
    query, keys, values, mask = (given[name] for name in ("query", "key", "value", "attn_mask"))
    if fake(query).dim() != 4:
        raise RewriteError(f"the heads of {attention.name} are not a dimension of their own")
    hidden = bool(given["is_causal"])
    if needs in ("class", "last"):
        if needs == "class" and (hidden or known.why.get(getattr(mask, "name", ""))):
            raise RewriteError("the first token does not see the others", "take method=last, received or page-rank")
        row = of_first if needs == "class" else of_last
        return _inserted(walk, attention, lambda q, k, bias: row(q, k, scale, bias), query, keys, mask)

    def everything(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        weights = probabilities(q, k, scale, bias, hidden)
        repeats = q.shape[1] // k.shape[1]
        return weights, weights @ (v.repeat_interleave(repeats, dim=1) if repeats > 1 else v)

    weights, out = _inserted(walk, attention, everything, query, keys, values, mask)
    walk.known_as(out, attention)
    if attention.name in walk.stages:
        walk.stages[out.name] = walk.stages[attention.name]
    attention.replace_all_uses_with(out)
    assert isinstance(weights, fx.Node)
    return weights


def _inserted(walk: Carrier, before: fx.Node, function: Any, *args: Any) -> Any:
    return insert(walk.program, before, function, *args)
