"""`RemoveNoops`: drop operators that change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tersor.context import Context
from tersor.passes import _noops
from tersor.passes._views import permutation
from tersor.program import Program
from tersor.rewrite import Match, Plan, node_rule, rewrite
from tersor.rewrite_values import arguments, key


@node_rule("view", "reshape", "_unsafe_view", "expand", "slice", "flatten", "squeeze", "broadcast_to")
def identity_view(match: Match) -> Plan:
    """A view that keeps the shape keeps everything."""
    x, second, *_ = (*arguments(match.root).values(), None)
    if key(match.root) == "view" and not isinstance(second, list | tuple):
        return None
    return _noops.same(match, x)


@node_rule("permute", "transpose", "t")
def identity_permute(match: Match) -> Plan:
    """Axes left in order, or two transposes that undo each other."""
    order, x = permutation(match.root), match.args[0]
    if order is None:
        return None
    if order == sorted(order):
        return _noops.same(match, x)
    inner = permutation(x)
    if inner is not None and [inner[axis] for axis in order] == sorted(order):
        return _noops.same(match, x.args[0])
    return None


@node_rule("cat")
def cat_of_one(match: Match) -> Plan:
    """A concatenation of one part."""
    parts = match.args[0]
    return _noops.same(match, parts[0]) if len(parts) == 1 else None


_RULES = (*_noops.RULES, identity_view, identity_permute, cat_of_one)


@dataclass(frozen=True)
class RemoveNoops:
    """Drop operators that change nothing.

    Addition of 0, multiplication by 1, identity views and permutes, casts to the same dtype, copies, dropout in
    evaluation, empty pads, repeated relu, double negation. Kept where shape or dtype would change by broadcasting or
    promotion, and where an output would become an input.
    """

    exact: ClassVar[bool] = True

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        rewrite(program, context, _RULES)
        program.prune_weights()
        program.changed()
