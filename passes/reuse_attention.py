"""`ReuseAttention`: layers take the attention map of an earlier layer where theirs would do the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, fx, nn

from tersor.attention.choose import losses
from tersor.attention.form import dense_attention
from tersor.attention.inline import Speller, operands, stand_for
from tersor.attention.shared_maps import attention_map, shared_attention
from tersor.attention.site import Call, Site, collect, describe
from tersor.attention.worth import graph_seconds
from tersor.context import Context
from tersor.errors import CaptureError, RewriteError
from tersor.factor.options import count, whole
from tersor.passes.recognise_attention import possible, recognised
from tersor.program import Program
from tersor.rewrite import erase_unused
from tersor.rewrite_values import argument, arguments
from tersor.target import Target
from tersor.tokens.attend import is_attention

LOOKED_AT = 4
"""Calibration inputs that layers are compared on."""


@dataclass(frozen=True)
class Reuse:
    """A layer and the earlier one whose map it takes."""

    node: str
    source: str
    lost: float


@dataclass(frozen=True, eq=False)
class Source:
    """A layer whose map later ones may take."""

    name: str
    site: Site
    mask: fx.Node | None
    calls: Sequence[Call]


@dataclass(frozen=True)
class ReuseAttention:
    """Compute an attention map once for several layers whose maps are alike (arXiv:1906.11024, here without training).

    A layer takes the map of an earlier one where its output then loses no more than ``error`` of its energy on
    calibration data. Its own queries and keys go, with the layers that made them. The map is held in memory, which a
    fused attention avoids; the pass declines where that makes it slower.

    Attributes:
        error: share of a layer's output energy that may be lost.
        reach: earlier maps that are tried, the nearest first.
        gain: predicted time of the program before by time after that each reuse must reach.
    """

    error: float = 0.02
    reach: int = 2
    gain: float = 1.0
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        whole("error", self.error)
        count("reach", self.reach)
        if not self.gain >= 1:
            raise ValueError(f"gain is {self.gain}; wanted 1 or more")

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """Two errors, where there are two attentions."""
        return (cls(error=0.02), cls(error=0.08)) if possible(program) > 1 else ()

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        sites: dict[fx.Node, Site] = {}
        for node in recognised(program, context):
            site = describe(node)
            if isinstance(site, str):
                context.skip(node, site)
            else:
                sites[node] = site
        if len(sites) < 2:
            return
        inputs = (context.calibration or (program.inputs,))[:LOOKED_AT]
        sources: list[Source] = []
        speller = Speller()
        for node, calls in collect(program, list(sites), inputs):
            own = Source(node.name, sites[node], arguments(node)["attn_mask"], calls)
            found = self._found(own, sources[-self.reach :])
            if isinstance(found, Reuse) and not self._reused(program, context, node, found, speller):
                found = ""
            if isinstance(found, str):
                if found:
                    context.skip(node, found)
                sources.append(own)
        erase_unused(program)
        program.prune_weights()
        program.changed()

    def _found(self, own: Source, sources: Sequence[Source]) -> Reuse | str:
        alike = [source for source in sources if _alike(own, source)]
        if not alike:
            return "no earlier attention has as many heads and tokens and the same mask"
        made = [Reuse(own.name, source.name, _lost(own, source)) for source in alike]
        best = min(made, key=lambda reuse: reuse.lost)
        if best.lost > self.error:
            return f"the map of {best.source} would lose {best.lost:.2g} of its energy, more than {self.error:g}"
        return best

    def _reused(self, program: Program, context: Context, node: fx.Node, reuse: Reuse, speller: Speller) -> bool:
        """Try it on a copy, and do it where it pays; says why not."""
        trial = program.clone()
        try:
            _put(trial, reuse, speller)
        except (CaptureError, RewriteError) as error:
            context.skip(node, f"the map of {reuse.source}: {error}")
            return False
        before, after = (graph_seconds(item.graph, context.target, context.backend) for item in (program, trial))
        told = f"the map of {reuse.source}, {reuse.lost:.2%} of its energy lost, program predicted "
        told += f"{before / max(after, 1e-12):.3f} times as fast"
        if after * self.gain >= before:
            context.skip(node, told)
            return False
        if not context.take(node, told):
            return False
        _put(program, reuse, speller)
        return True


class Map(nn.Module):
    """The map of an attention from query, key and mask."""

    def __init__(self, causal: bool, scale: float | None) -> None:
        super().__init__()
        self.causal, self.scale = causal, scale

    def forward(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, H, L, S]."""
        return attention_map(query, key, mask, causal=self.causal, scale=self.scale)


class Applied(nn.Module):
    """A map applied to values."""

    def forward(self, weights: Tensor, value: Tensor) -> Tensor:
        """[B, H, L, V]."""
        return shared_attention(weights, value)


def _put(program: Program, reuse: Reuse, speller: Speller) -> None:
    nodes = {node.name: node for node in program.nodes}
    source, node = nodes[reuse.source], nodes[reuse.node]
    weights = source.args[0]
    if is_attention(source):
        module = Map(bool(argument(source, "is_causal")), argument(source, "scale"))
        given = operands(source, "query", "key", "attn_mask")
        weights = speller.spell(program, source, module, given, f"map {module.causal} {module.scale}")
        _apply(program, source, weights, speller)
    assert isinstance(weights, fx.Node)
    _apply(program, node, weights, speller)
    erase_unused(program)


def _apply(program: Program, node: fx.Node, weights: fx.Node, speller: Speller) -> None:
    """The product stands for the attention, under its name, so that later layers find it."""
    name = node.name
    made = speller.spell(program, node, Applied(), [weights, *operands(node, "value")], "applied")
    stand_for(program, node, made)
    made.name = name


def _alike(own: Source, other: Source) -> bool:
    """Whether two attentions differ in their operands only."""
    a, b = own.site, other.site
    same = (a.batch, a.heads, a.rows, a.columns, a.causal, a.fixed) == (
        b.batch, b.heads, b.rows, b.columns, b.causal, b.fixed,
    )  # fmt: skip
    return same and own.mask is other.mask


def _lost(own: Source, other: Source) -> float:
    """Share of the energy of all heads that the other's map loses."""
    wanted, made = [], []
    with torch.no_grad():
        for mine, theirs in zip(own.calls, other.calls, strict=True):
            wanted.append(dense_attention(*mine, causal=own.site.causal, scale=own.site.scale).flatten(1, 2)[:, None])
            weights = attention_map(theirs[0], theirs[1], theirs[3], causal=other.site.causal, scale=other.site.scale)
            made.append(shared_attention(weights, mine[2]).flatten(1, 2)[:, None])
    return float(losses(wanted, made))
