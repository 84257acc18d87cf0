"""`Permute`: input channels in the order in which an N:M pattern keeps most of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from tersor.axes import Axes, Group, analyze, groups
from tersor.axes.permute import permuted
from tersor.axes.select import indices, owners
from tersor.axes.terms import Axis
from tersor.calibrate import Statistics, statistics
from tersor.context import Context
from tersor.convolution import CONVOLUTIONS
from tersor.factor.components import input_tap
from tersor.factor.layers import Layer, layers
from tersor.factor.least_squares import residual
from tersor.factor.options import count, whole
from tersor.program import Program
from tersor.quant.grid import spread
from tersor.rewrite_values import arguments, key
from tersor.sparse.layout import as_matrix, as_moments, slices
from tersor.sparse.pattern import Pattern, parse
from tersor.sparse.permute import Ordered, search
from tersor.sparse.sparsegpt import sparsegpt

SCORES = ("magnitude", "wanda", "sparsegpt")
SAMPLES = 8192


@dataclass(frozen=True)
class Permute:
    """Reorder the channels between layers, so that weights which a later `sparsify` may keep share fewer blocks.

    All weights that mention a channel are reordered together, which axes find; the graph stays as it is and the outputs
    too (Pool and Yu, NeurIPS 2021). Orders are searched for the sum of what the pattern keeps in all layers that read
    the channels.

    Attributes:
        pattern: that `sparsify` will follow, such as "2:4".
        score: what is to be kept: "magnitude" of weights; "wanda", magnitude times the root mean square of the input
            on calibration data; "sparsegpt", as wanda, and only where SparseGPT then loses less.
        least: share of what the pattern loses that must be kept instead, else an order stays.
        inputs: of a layer at least, as `sparsify` asks.
        kicks: escapes from local maxima for each group.
        work: additions for each group, at most; 1e9 are about a second.
    """

    pattern: str = "2:4"
    score: str = "sparsegpt"
    least: float = 0.02
    inputs: int = 32
    kicks: int = 20
    work: float = 2e9
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        parse(self.pattern)
        whole("least", self.least)
        count("inputs", self.inputs)
        count("kicks", self.kicks, least=0)
        if self.score not in SCORES:
            raise ValueError(f"score is {self.score!r}; wanted one of {', '.join(SCORES)}")
        if not self.work >= 0:
            raise ValueError(f"work is {self.work}; wanted a number of additions")

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        pattern = parse(self.pattern)
        found = {
            layer.name: layer
            for layer in layers(program, Context(), ("linear", *CONVOLUTIONS))
            if layer.inputs >= self.inputs and layer.inputs % pattern.m == 0
        }
        axes = analyze(program)
        nodes = {node.name: node for node in program.nodes}
        read = [(group, _readers(group, nodes)) for group in groups(program, axes)]
        seen = self._statistics(program, found, context)
        orders: dict[Axis, Tensor] = {}
        for group, readers in read:
            if not readers or group.size == 1:
                continue
            taken = [found[node.name] for node in readers if node.name in found]
            order = self._order(axes, group, taken, seen, context, readers[0])
            if order is not None:
                orders[group.axis] = order
        if orders:
            context.proofs += permuted(program, axes, orders, context.calibration[:1])

    def _statistics(
        self, program: Program, found: Mapping[str, Layer], context: Context
    ) -> dict[str, tuple[Layer, Statistics]]:
        """What each layer reads, by its name; empty where only magnitudes count."""
        if self.score == "magnitude" or not found:
            return {}
        taps = {name: input_tap(layer) for name, layer in found.items()}
        inputs = context.calibration or (program.inputs,)
        gram = self.score == "sparsegpt"
        made = statistics(program, taps.values(), inputs, gram=gram, samples=SAMPLES, seed=context.seed)
        return {name: (found[name], made[tap]) for name, tap in taps.items()}

    def _order(
        self, axes: Axes, group: Group, taken: list[Layer], seen: Mapping[str, tuple[Layer, Statistics]],
        context: Context, node: fx.Node,
    ) -> Tensor | None:  # fmt: skip
        """The order of a group's indices, announced; None where it stays."""
        pattern = parse(self.pattern)
        parts = [
            part
            for layer in taken
            for part in slices(_scored(layer, seen), 1, _owners(axes, layer, group.axis), group.size, pattern)
        ]
        reason = group.pin or ("they may not change places" if group.axis.ordered else "")
        reason = reason or ("" if taken else f"no layer that reads them takes {pattern}")
        reason = reason or ("" if parts else "another order moves no weight to another block")
        what = f"{group.size} {group.kind} of {group.name}"
        if reason:
            context.skip(node, f"{what} stay in their order: {reason}")
            return None
        made = search(parts, pattern, work=self.work, kicks=self.kicks, seed=context.seed)
        gain = (made.after - made.before) / max(made.total - made.before, 1e-300)
        told = f"{pattern} keeps {made.after / made.total:.2%} of {what}, was {made.before / made.total:.2%}"
        if gain < self.least:
            context.skip(node, f"{told}: too little to reorder")
            return None
        if self.score == "sparsegpt":
            before, after = _losses(axes, group.axis, taken, seen, made, pattern)
            told += f"; SparseGPT loses {after:.3g}, was {before:.3g}"
            if after >= before:
                context.skip(node, told)
                return None
        return made.order if context.take(node, told) else None


def _readers(group: Group, nodes: Mapping[str, fx.Node]) -> list[fx.Node]:
    """The layers that sum over a group."""
    return [nodes[name] for name in group.consumers if key(nodes[name]) in ("linear", *CONVOLUTIONS)]


def _owners(axes: Axes, layer: Layer, axis: Axis) -> Tensor:
    """The index of an axis that each input of a layer belongs to."""
    return owners(axes.weights[str(arguments(layer.node)["weight"].target)][1], axis)


def _scored(layer: Layer, seen: Mapping[str, tuple[Layer, Statistics]]) -> Tensor:
    """How much each weight counts."""
    weight = layer.weight.detach().abs().double()
    if layer.name not in seen:
        return weight
    return weight * spread(seen[layer.name][1].square.to(weight.device).sqrt(), weight, 1)


def _losses(
    axes: Axes, axis: Axis, taken: list[Layer], seen: Mapping[str, tuple[Layer, Statistics]], made: Ordered,
    pattern: Pattern,
) -> tuple[float, float]:  # fmt: skip
    """Shares of the layers' output energy that SparseGPT loses without and with an order, summed over layers."""
    before = after = 0.0
    for layer in taken:
        weight, item = as_matrix(layer.weight).double(), seen[layer.name][1]
        assert item.gram is not None
        gram = (item.gram[0] if item.gram.dim() == 3 else item.gram) / max(item.samples, 1)
        gram = as_moments(gram, layer.weight.shape)
        places = indices(axes.weights[str(arguments(layer.node)["weight"].target)][1], {axis: made.order})
        order = (torch.arange(layer.kernel)[:, None] * layer.inputs + places).flatten().to(weight.device)
        before += _lost(weight, gram, pattern)
        after += _lost(weight[:, order], gram[order[:, None], order], pattern)
    return before, after


def _lost(weight: Tensor, gram: Tensor, pattern: Pattern) -> float:
    kept = sparsegpt(weight, gram, pattern).weight
    return float(residual(weight, kept, gram).sum() / ((weight @ gram) * weight).sum().clamp_min(1e-300))
