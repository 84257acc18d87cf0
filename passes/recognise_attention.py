"""`RecogniseAttention`: attention of any spelling as one scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import fx

from tersor.context import Context
from tersor.errors import RewriteError
from tersor.passes._attention_arrange import Builder
from tersor.passes._attention_emit import Emitter
from tersor.passes._attention_plan import Attention, plan
from tersor.passes._weights import share_weight_nodes
from tersor.program import Program
from tersor.refresh import refresh
from tersor.rewrite import erase_unused, replace
from tersor.rewrite_values import key
from tersor.target import Target
from tersor.tokens.attend import is_attention
from tersor.tokens.cuts import attentions

SOFTMAX = ("softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax")


@dataclass(frozen=True)
class RecogniseAttention:
    """Find queries, keys, values, scale and mask around each softmax, and make them one operator.

    From the softmax it walks back over everything that attention may do to its scores (numbers they are multiplied
    with, biases, masks, casts, views) to the product of queries and keys, and on to the product with the values. Axes
    are followed as products of atoms, so that layouts, einsum, windows and shared heads need no patterns of their own.
    Expects `Canonicalize` to have run. A softmax that is no attention is skipped with the first condition that failed.

    A row of scores whose mask of minus infinity hides all is NaN by itself, and zeros in the operator.
    """

    exact: ClassVar[bool] = True

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """It has no settings; nothing where no softmax is."""
        return (cls(),) if any(key(node) in SOFTMAX for node in program.nodes) else ()

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        share_weight_nodes(program)
        made: dict[Hashable, fx.Node] = {}
        for node in [node for node in program.graph.nodes if key(node) in SOFTMAX]:
            found = plan(program, node)
            if isinstance(found, str):
                context.skip(node, found)
            else:
                _rewrite(program, context, node, found, made)
        erase_unused(program)
        program.prune_weights()
        program.changed()


def _rewrite(
    program: Program, context: Context, softmax: fx.Node, found: Attention, made: dict[Hashable, fx.Node]
) -> None:
    nearest = [found.queries[0].node, found.keys[0].node, found.values[0].node]
    emitter = Emitter(Builder(program, found.root, nearest), found, made)
    try:
        call = emitter.call()
    except RewriteError as error:
        context.skip(softmax, str(error))
        return
    if context.take(found.root, "; ".join(["attention", *emitter.notes])):
        replace(program, found.root, call)


def possible(program: Program) -> int:
    """How many attentions there are at most, recognised or not."""
    return sum(is_attention(node) or key(node) in SOFTMAX for node in program.nodes)


def recognised(program: Program, context: Context) -> list[fx.Node]:
    """All attentions, each made one operator in place; where there is none, why no softmax is one is told."""
    RecogniseAttention()(program, told := Context())
    if told.taken:
        refresh(program)
    found = attentions(program)
    if not found:
        nodes = {node.name: node for node in program.nodes}
        for site in told.skipped:
            if site.node in nodes:
                context.skip(nodes[site.node], f"no attention: {site.detail}")
    return found
