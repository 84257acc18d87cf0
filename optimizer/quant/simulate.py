"""A program run as if some of its layers were quantized, without an edit of its graph: which layer costs how much."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from tersor.interface import Flat
from tersor.program import Program
from tersor.progress import Progress, Silent
from tersor.quant.grid import Grid
from tersor.quant.placement import Rules
from tersor.quant.plan import Layer, plan
from tersor.rewrite_values import arguments


class Rounder(Protocol):
    """What a program is rounded by: the grid of activations, rounded weights by layer name, and which tensors."""

    @property
    def on(self) -> Grid:
        """Of activations."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """The rounded weight by layer name."""

    @property
    def rules(self) -> Rules:
        """Which tensors are rounded for which layers."""

    def activation(self, name: str, value: Tensor) -> Tensor:
        """A node's result after quantizing and taking back."""


@dataclass(frozen=True)
class Rounding:
    """How the tensors of layers are rounded.

    Attributes:
        on: the grid of activations.
        scales: scale and zero point by node name.
        weights: the rounded weight by layer name.
        rules: which tensors are rounded for which layers.
    """

    on: Grid
    scales: dict[str, tuple[Tensor, Tensor]]
    weights: dict[str, Tensor]
    rules: Rules

    def activation(self, name: str, value: Tensor) -> Tensor:
        """A node's result after quantizing and taking back."""
        scale, zero = self.scales[name]
        return torch.fake_quantize_per_tensor_affine(value, float(scale), int(zero), self.on.lowest, self.on.highest)


class _Simulated(fx.Interpreter):
    """Rounds what the plan of the chosen layers rounds, for the nodes that would read it rounded."""

    def __init__(
        self, program: Program, rounding: Rounder, layers: Collection[Layer], watched: Collection[str] = ()
    ) -> None:
        super().__init__(program.module(), garbage_collect_values=True)
        made = plan(list(layers), rounding.rules)
        self.rounding, self.watched = rounding, set(watched)
        self.seen: dict[str, Tensor] = {}
        self.layers = {node.name for node in made.layers}
        self.readers = {node.name for node in made.readers}
        self.whole = {node.name: made.tensors[node].name for node in made.whole}
        self.partly = {node.name: root.name for node, root in made.tensors.items() if node not in made.whole}

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        if n.name in self.watched:
            self.seen[n.name] = made
        return self.rounding.activation(self.whole[n.name], made) if n.name in self.whole else made

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[Any, Any]:
        """The arguments, rounded where this node reads them rounded."""
        if n.name not in self.readers:
            return super().fetch_args_kwargs_from_env(n)
        weight = arguments(n)["weight"] if n.name in self.layers else None

        def value(source: fx.Node) -> Any:
            if source is weight:
                return self.rounding.weights[n.name]
            found = self.env[source]
            return self.rounding.activation(self.partly[source.name], found) if source.name in self.partly else found

        args, kwargs = fx.node.map_arg((n.args, n.kwargs), value)
        return args, kwargs


def error(
    program: Program, rounding: Rounder, layers: Collection[Layer], inputs: Sequence[Flat], wanted: Sequence[Flat]
) -> float:
    """Energy of what quantizing these layers adds to the outputs, relative to the outputs' energy, over all inputs."""
    total, added = 0.0, 0.0
    with torch.no_grad():
        for flat, right in zip(inputs, wanted, strict=True):
            made = _Simulated(program, rounding, layers).run(*flat)
            for got, true in zip(made, right, strict=True):
                if isinstance(true, Tensor) and true.is_floating_point():
                    added += _energy(got.double() - true.double())
                    total += _energy(true)
    return added / max(total, 1e-300)


def _energy(value: Tensor) -> float:
    return float(value.double().square().sum())


def alone(
    program: Program,
    rounding: Rounder,
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


@dataclass
class Attribution:
    """Where the error of a program comes from, each by layer name and relative to the energy of what is compared.

    Attributes:
        local: of a layer's own result, with everything quantized.
        alone: of the outputs, with only this layer quantized.
        together: of the outputs, with this layer and all before it quantized.
    """

    local: dict[str, float] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)
    together: dict[str, float] = field(default_factory=dict)


def attribute(
    program: Program, rounding: Rounder, layers: Sequence[Layer], flat: Flat, most: int | None = None
) -> Attribution:
    """What each layer does to its own result and to the outputs, on one input.

    Args:
        layers: those that are quantized, in execution order.
        most: at most so many layers are quantized alone and with all before them, those first whose results are off
            most; each takes two runs of the program. None takes all.
    """
    names = [layer.node.name for layer in layers]
    made = Attribution(_local(program, rounding, layers, flat))
    chosen = set(sorted(names, key=lambda name: -made.local[name])[:most])
    wanted = [program.run(flat)]
    for place, layer in enumerate(layers):
        name = layer.node.name
        if name in chosen:
            made.alone[name] = error(program, rounding, [layer], [flat], wanted)
            made.together[name] = error(program, rounding, layers[: place + 1], [flat], wanted)
    return made


def _local(program: Program, rounding: Rounder, layers: Sequence[Layer], flat: Flat) -> dict[str, float]:
    names = [layer.node.name for layer in layers]
    runs = [_Simulated(program, rounding, chosen, names) for chosen in ((), layers)]
    with torch.no_grad():
        for item in runs:
            item.run(*flat)
    true, got = (item.seen for item in runs)
    return {name: _energy(got[name] - true[name]) / max(_energy(true[name]), 1e-300) for name in names}
