"""A program run as if some of its layers were quantized, without an edit of its graph: which layer costs how much."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tersor.interface import Flat
from tersor.program import Program
from tersor.progress import Progress, Silent
from tersor.quant.grid import Grid, rounded
from tersor.quant.plan import Layer
from tersor.rewrite_values import arguments


@dataclass(frozen=True)
class Rounding:
    """How the tensors of layers are rounded.

    Attributes:
        on: the grid of activations.
        scales: scale and zero point by node name.
        weights: the rounded weight by layer name.
    """

    on: Grid
    scales: dict[str, tuple[Tensor, Tensor]]
    weights: dict[str, Tensor]

    def activation(self, name: str, value: Tensor) -> Tensor:
        """A node's result after quantizing and taking back."""
        return rounded(value, *self.scales[name], self.on)


class _Simulated(fx.Interpreter):
    """Rounds what the chosen layers read, their weights, and the results that their kernels give out as integers."""

    def __init__(self, program: Program, rounding: Rounding, layers: Collection[Layer]) -> None:
        super().__init__(program.module(), garbage_collect_values=True)
        self.rounding = rounding
        self.layers = {layer.node.name: layer for layer in layers}
        self.results = {layer.result.name for layer in layers if layer.closed}

    def run_node(self, n: fx.Node) -> Any:
        layer = self.layers.get(n.name)
        if layer is None:
            made = super().run_node(n)
        else:
            source, weight = layer.source, arguments(n)["weight"]
            args, kwargs = fx.node.map_arg(
                (n.args, n.kwargs),
                lambda item: (
                    self.rounding.weights[n.name] if item is weight
                    else self.rounding.activation(source.name, self.env[item]) if item.name == source.name
                    else self.env[item]
                ),
            )  # fmt: skip
            made = self.call_function(n.target, args, kwargs)
        return self.rounding.activation(n.name, made) if n.name in self.results else made


def error(
    program: Program, rounding: Rounding, layers: Collection[Layer], inputs: Sequence[Flat], wanted: Sequence[Flat]
) -> float:
    """Energy of what quantizing these layers adds to the outputs, relative to the outputs' energy, over all inputs."""
    total, added = 0.0, 0.0
    with torch.no_grad():
        for flat, right in zip(inputs, wanted, strict=True):
            made = _Simulated(program, rounding, layers).run(*flat)
            for got, true in zip(made, right, strict=True):
                if isinstance(true, Tensor) and true.is_floating_point():
                    true = true.double()
                    added += float((got.double() - true).square().sum())
                    total += float(true.square().sum())
    return added / max(total, 1e-300)


def alone(
    program: Program,
    rounding: Rounding,
    layers: Sequence[Layer],
    inputs: Sequence[Flat],
    wanted: Sequence[Flat],
    progress: Progress | None = None,
) -> dict[str, float]:
    """The error that each layer adds when only it is quantized, by its name: the map of where precision is lost."""
    progress = progress or Silent()
    progress.stage("sensitivity", len(layers))
    found = {}
    for layer in layers:
        found[layer.node.name] = error(program, rounding, [layer], inputs, wanted)
        progress.advance()
    return found


def affordable(
    program: Program,
    rounding: Rounding,
    layers: Sequence[Layer],
    inputs: Sequence[Flat],
    wanted: Sequence[Flat],
    limit: float,
) -> tuple[list[Layer], dict[str, float]]:
    """The layers that may be quantized together with at most ``limit`` of error, and the error of each alone.

    Those that add most by themselves leave first, a twentieth at a time, until the rest together are within the limit.
    """
    costs: dict[str, float] = {}
    stay = list(layers)
    if error(program, rounding, stay, inputs, wanted) <= limit:
        return stay, costs
    costs = alone(program, rounding, layers, inputs, wanted)
    stay.sort(key=lambda layer: costs[layer.node.name])
    while stay and error(program, rounding, stay, inputs, wanted) > limit:
        del stay[-max(1, len(layers) // 20) :]
    order = {layer.node.name: place for place, layer in enumerate(layers)}
    return sorted(stay, key=lambda layer: order[layer.node.name]), costs
