"""Importance from the scales of normalisations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from tersor.axes.analysis import Axes
from tersor.axes.groups import Group
from tersor.context import Context
from tersor.importance.criterion import Scores, normalized
from tersor.importance.magnitude import magnitude
from tersor.importance.slices import member_sums, total
from tersor.program import Program
from tersor.rewrite_values import arguments, key

NORMS = frozenset(
    {
        "batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm", "instance_norm", "group_norm",
        "native_group_norm", "layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm",
    }
)  # fmt: skip
"""Operators with a scale per index."""


@dataclass(frozen=True)
class BnScale:
    """Magnitude of the normalisation's scale.

    Learning Efficient Convolutional Networks through Network Slimming, Liu et al., ICCV 2017, arXiv:1708.06519. Batch
    norms that were folded into convolutions have no scale any more: such groups get their L2 magnitude, and the context
    is told. Both are divided by the group's mean, so that a global ranking may mix them.
    """

    def __call__(self, program: Program, axes: Axes, groups: Sequence[Group], context: Context) -> Scores:
        """Mean 1 in each group."""
        scales = set(_scales(program))
        nodes = {node.name: node for node in program.nodes}
        scores: Scores = {}
        for group in groups:
            members = [member for member in group.members if member.weight in scales]
            parts = member_sums(program, group.axis, members, lambda _, weight: weight.detach().double())
            if not members:
                _tell(context, nodes, group)
            score = bn_scale(parts) if members else magnitude(program, group)
            scores[group.axis] = normalized(score)
        return scores


def bn_scale(scales: Sequence[Tensor]) -> Tensor:
    """Sum of the magnitudes of the scales of one index, each of shape [n]."""
    return total([scale.abs() for scale in scales], len(scales[0]) if scales else 0)


def _scales(program: Program) -> Iterator[str]:
    for node in program.nodes:
        scale = arguments(node).get("weight") if key(node) in NORMS else None
        if isinstance(scale, fx.Node) and program.weight(scale) is not None:
            yield str(scale.target)


def _tell(context: Context, nodes: dict[str, fx.Node], group: Group) -> None:
    producer = next((nodes[name] for name in group.producers if name in nodes), None)
    if producer is not None:
        context.skip(producer, f"bn-scale: no normalisation scales group {group.name!r}, its L2 magnitude is taken")
