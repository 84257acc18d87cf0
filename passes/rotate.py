"""`Rotate`: Hadamard rotations of the residual stream and of attention values, which spread outliers over channels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self, TypeAlias

import torch
from torch import Tensor, fx

from tersor.axes import Axes, Group, analyze, groups
from tersor.axes.rotate import obstacle, rotate, touching
from tersor.calibrate import observe
from tersor.context import Context
from tersor.convolution import CONVOLUTIONS
from tersor.factor.options import whole
from tersor.passes._scales import fold, unfoldable
from tersor.passes._weights import share_weight_nodes
from tersor.program import Program
from tersor.quant.grid import grid
from tersor.quant.hadamard import keeping_mean, rotation
from tersor.quant.smooth import Moments, Seen, predicted
from tersor.rewrite_values import arguments, key
from tersor.target import Target

LAYERS = ("linear", *CONVOLUTIONS)
KINDS = ("width", "head-dim")
BATCHES = 8

Name: TypeAlias = tuple[int, tuple[str, ...], tuple[str, ...]]
"""What a group is called before and after scales are folded: its size, and what makes and reads it."""


@dataclass(frozen=True)
class Rotate:
    """Multiply channels by a Hadamard matrix, and everything that reads them by its inverse.

    A channel that is a hundred times larger than the others is spread over all of them (QuaRot, arXiv:2404.00456;
    SpinQuant, arXiv:2405.16406). Weights take both matrices in, so that the graph computes what it did: the residual
    stream where all that touches it is linear or a normalisation whose scale the next layers can take, and the inner
    axis of attention heads. Layer norms stay what they are, because the rotation keeps the mean of all channels.

    Attributes:
        weights, activations: the formats that layers are to be quantized to.
        least: share of the predicted error of the layers behind that must go, else an axis stays as it is.
    """

    weights: str = "int8"
    activations: str = "uint8"
    least: float = 0.1
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole("least", self.least)
        grid(self.weights)
        grid(self.activations)

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """One setting: it turns what gains by it."""
        return (cls(),)

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        share_weight_nodes(program)
        nodes = {node.name: node for node in program.nodes}
        sites = {}
        for group, reason in _candidates(program, nodes):
            if reason:
                context.skip(_place(group, nodes), f"{group.size} {group.kind} of {group.name} stay: {reason}")
            else:
                sites[_name(group)] = group
        if not sites:
            return
        trial = program.clone()
        _turn(trial, sites, context.seed)
        inputs = (context.calibration or (program.inputs,))[:BATCHES]
        layers = {name for group in sites.values() for name in _layers(group, nodes)}
        before, after = (self._errors(item, layers, inputs) for item in (program, trial))
        taken = [name for name, group in sites.items() if self._take(group, nodes, before, after, context)]
        if taken:
            _turn(program, taken, context.seed)
            program.prune_weights()

    def _errors(
        self, program: Program, layers: Collection[str], inputs: tuple[tuple[Tensor, ...], ...]
    ) -> dict[str, tuple[float, float]]:
        """For each layer the share of its output's energy that is lost, and its input's peak by its mean size."""
        nodes = [node for node in program.nodes if node.name in layers]
        sources = {arguments(node)["input"].name: _channel(node) for node in nodes}
        seen = {name: Seen(dim) for name, dim in sources.items()}
        observe(program, {name: item.add for name, item in seen.items()}, inputs)
        found = {}
        for node in nodes:
            weight, moments = program.weight(arguments(node)["weight"]), seen[arguments(node)["input"].name].moments()
            assert weight is not None
            found[node.name] = self._error(weight, moments), _peak(moments)
        return found

    def _error(self, weight: Tensor, moments: Moments) -> float:
        unit = torch.ones(weight.shape[1], dtype=torch.float64)
        lost = predicted(moments, weight, unit, grid(self.activations), grid(self.weights))
        square = moments.square.reshape(-1, *[1] * (weight.dim() - 2))
        return lost / max(float((weight.double().square() * square).sum()), 1e-300)

    def _take(
        self, group: Group, nodes: Mapping[str, fx.Node], before: Mapping[str, tuple[float, float]],
        after: Mapping[str, tuple[float, float]], context: Context,
    ) -> bool:  # fmt: skip
        own = _layers(group, nodes)
        lost, left = (sum(item[name][0] for name in own) for item in (before, after))
        gain = 1 - left / max(lost, 1e-300)
        read = [name for name in own if name in group.consumers]
        peaks = [max(item[name][1] for name in read) for item in (before, after)]
        node, what = _place(group, nodes), f"{group.size} {group.kind} of {group.name}"
        told = f"largest value {peaks[0]:.1f} times the root mean square, turned {peaks[1]:.1f}"
        if gain < self.least:
            context.skip(node, f"{what} stay: {gain:.0%} of the predicted error would go; {told}")
            return False
        return context.take(node, f"{what} turned: {gain:.0%} of the predicted error goes; {told}")


def _candidates(program: Program, nodes: Mapping[str, fx.Node]) -> Iterator[tuple[Group, str]]:
    """Groups that layers read, and why they cannot be turned."""
    axes = analyze(program)
    touched = touching(program, axes)
    for group in groups(program, axes):
        readers = [name for name in group.consumers if key(nodes[name]) in LAYERS]
        if not readers or group.size < 2 or group.kind not in KINDS:
            continue
        reason = group.pin or obstacle(program, axes, group.axis, touched[group.axis])
        norms = [nodes[name] for name in group.spans]
        yield group, reason or next(filter(None, (unfoldable(program, node) for node in norms)), "")


def _name(group: Group) -> Name:
    return group.size, group.producers, group.consumers


def _place(group: Group, nodes: Mapping[str, fx.Node]) -> fx.Node:
    return nodes[(group.producers or group.consumers)[0]]


def _layers(group: Group, nodes: Mapping[str, fx.Node]) -> list[str]:
    """The layers that read or make a group."""
    every = dict.fromkeys((*group.producers, *group.consumers))
    return [name for name in every if key(nodes[name]) in LAYERS]


def _channel(node: fx.Node) -> int:
    return -1 if key(node) == "linear" else -1 - int(key(node)[-2])


def _peak(moments: Moments) -> float:
    largest = torch.maximum(moments.low.abs(), moments.high.abs()).max()
    return float(largest / moments.square.mean().sqrt().clamp_min(1e-300))


def _turn(program: Program, wanted: Collection[Name], seed: int) -> None:
    """Fold the scales of the normalisations over some groups, and rotate the groups, in place."""
    nodes = {node.name: node for node in program.nodes}
    for name in {name for group in _named(program, wanted)[1] for name in group.spans}:
        fold(program, nodes[name])
    axes, found = _named(program, wanted)
    turns = {}
    for group in found:
        turn = rotation(group.size, seed=seed)
        means = any(key(nodes[name]) == "layer_norm" for name in group.spans)
        turns[group.axis] = keeping_mean(turn) if means else turn
    rotate(program, axes, turns)


def _named(program: Program, wanted: Collection[Name]) -> tuple[Axes, list[Group]]:
    axes = analyze(program)
    return axes, [group for group in groups(program, axes) if _name(group) in wanted]
