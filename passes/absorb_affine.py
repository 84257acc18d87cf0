"""`AbsorbAffine`: constant factors and offsets become part of the layer before or behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tersor.context import Context
from tersor.convolution import CONVOLUTIONS, TRANSPOSED
from tersor.passes._affine import affine_of
from tersor.passes._layers import absorb_after, absorb_before, layer_behind
from tersor.passes._weights import share_weight_nodes
from tersor.program import Program
from tersor.rewrite import Match, Plan, node_rule, rewrite
from tersor.rewrite_values import argument, key

_ARITHMETIC = ("mul", "div", "add", "sub", "rsub", "neg")


@node_rule(*_ARITHMETIC)
def into_layer_before(match: Match) -> Plan:
    """A layer, then a constant factor or offset per channel."""
    affine = affine_of(match, match.root)
    layer = layer_behind(affine.source) if affine is not None else None
    if affine is None or layer is None or isinstance(layer, str):
        return layer if isinstance(layer, str) else None
    return absorb_after(match, layer, affine)


@node_rule("linear", *CONVOLUTIONS, *TRANSPOSED)
def into_layer_behind(match: Match) -> Plan:
    """A constant factor or offset per channel, then a layer."""
    node = argument(match.root, "input")
    affine = affine_of(match, node) if key(node) in _ARITHMETIC else None
    if affine is None:
        return None
    if len(node.users) != 1:
        return f"{node.name} is read by {len(node.users)} nodes"
    return absorb_before(match, affine)


@dataclass(frozen=True)
class AbsorbAffine:
    """Give a layer's weights a constant factor or offset applied before or behind it.

    For linear layers, convolutions, batch norm and layer norm; the constant is one number, or one per channel. Through
    permutes and reshapes that keep the last axis. An offset ahead of a convolution that pads is left alone, and so is
    any constant beside a weight that other nodes read too.
    """

    exact: ClassVar[bool] = True

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        share_weight_nodes(program)
        rewrite(program, context, (into_layer_before, into_layer_behind))
        program.prune_weights()
        program.changed()
