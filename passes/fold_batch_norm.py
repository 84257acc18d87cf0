"""`FoldBatchNorm`: batch norm becomes part of the layer before or behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tersor.context import Context
from tersor.convolution import CONVOLUTIONS
from tersor.passes._affine import batch_norm_affine
from tersor.passes._layers import absorb_after, absorb_before, layer_behind
from tersor.passes._norms import batch_norm_arguments
from tersor.passes._weights import share_weight_nodes
from tersor.program import Program
from tersor.rewrite import Match, Plan, node_rule, rewrite
from tersor.rewrite_values import argument, key


@node_rule("batch_norm", "getitem")
def into_layer_before(match: Match) -> Plan:
    """Convolution or linear layer, then batch norm."""
    affine = batch_norm_affine(match, match.root)
    if affine is None:
        given = batch_norm_arguments(match.root)
        return "its statistics are computed in the graph" if given else None
    layer = layer_behind(affine.source)
    if layer is None or isinstance(layer, str):
        return layer
    if key(layer.node) == "layer_norm":
        return None
    return absorb_after(match, layer, affine)


@node_rule("linear", *CONVOLUTIONS)
def into_layer_behind(match: Match) -> Plan:
    """Batch norm, then convolution without padding or linear layer."""
    norm = argument(match.root, "input")
    if key(norm) not in ("batch_norm", "getitem") or batch_norm_arguments(norm) is None:
        return None
    affine = batch_norm_affine(match, norm)
    if affine is None:
        return None
    if len(norm.users) != 1:
        return f"batch norm {norm.name} is read by {len(norm.users)} nodes"
    return absorb_before(match, affine)


@dataclass(frozen=True)
class FoldBatchNorm:
    """Give a layer's weights the scale and shift of the batch norm before or behind it.

    For convolutions in 1 to 3 dimensions, grouped, depthwise and transposed ones, linear layers, and batch norm
    itself. Weights are computed in float64 and rounded once. A batch norm ahead of a convolution is folded only where
    the convolution does not pad, because padding comes after the shift.
    """

    exact: ClassVar[bool] = True

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        share_weight_nodes(program)
        rewrite(program, context, (into_layer_before,))
        rewrite(program, context, (into_layer_behind,))
        program.prune_weights()
        program.changed()
