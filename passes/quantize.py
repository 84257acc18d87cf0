"""`Quantize`: layers are computed on integers, with scales from calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tersor.context import Context
from tersor.factor.options import whole
from tersor.program import Program
from tersor.quant.grid import Grid, grid
from tersor.quant.insert import put_activation, put_bias, put_weight
from tersor.quant.placement import Rules, rules
from tersor.quant.plan import Layer, candidates, plan
from tersor.quant.ranges import method
from tersor.quant.scales import Scale, of_activations
from tersor.quant.simulate import Rounding, affordable
from tersor.quant.weights import ROUNDINGS, Whole, of_layers
from tersor.rewrite_values import fake, key


@dataclass(frozen=True)
class Quantize:
    """Compute convolutions and linear layers on eight-bit integers (Jacob et al., arXiv:1712.05877).

    Weights have one scale per output channel, activations one per tensor, from what the calibration data showed. What
    is quantized is what the backend then fuses; every quantization is explicit in the graph. Layers that would add most
    to the error of the outputs stay in floating point until the rest adds no more than ``noise``.

    Attributes:
        weights: format of weights: "int8", or "int7" where sums of products would overflow.
        activations: format of activations; empty takes the backend's.
        ranges: "mse", "entropy", "percentile" or "min-max", see `tersor.quant.ranges`.
        backend: whose integer kernels decide what is quantized: "onnxruntime" or "openvino".
        rounding: of weights: "nearest", "gptq" or "adaround"; the shift of the outputs that any of them leaves is taken
            off the bias.
        noise: share of the outputs' energy that may be added, on calibration data; 1 quantizes whatever can be.
    """

    weights: str = "int8"
    activations: str = ""
    ranges: str = "mse"
    backend: str = "onnxruntime"
    rounding: str = "nearest"
    noise: float = 0.05
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        rules(self.backend)
        method(self.ranges)
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"rounding is {self.rounding!r}; wanted one of {', '.join(ROUNDINGS)}")
        grid(self.weights)
        grid(self.activations or "uint8")
        whole("noise", self.noise)

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        table = rules(self.backend)
        found = self._found(program, table, context)
        if not found:
            return
        on, weights = grid(self.activations or table.activations), grid(self.weights)
        inputs = context.calibration or (program.inputs,)
        names = [node.name for node in plan(found, table).tensors]
        scales = of_activations(program, names, on, self.ranges, inputs)
        own = of_layers(program, found, weights, self.rounding, inputs, seed=context.seed)
        rounding = Rounding(on, scales, {name: item.values for name, item in own.items()})
        chosen = self._chosen(program, context, found, rounding)
        self._put(program, chosen, table, scales, own, on, weights)

    def _found(self, program: Program, table: Rules, context: Context) -> list[Layer]:
        made = []
        for node, found in candidates(program, table):
            if isinstance(found, str):
                context.skip(node, found)
            else:
                made.append(found)
        return made

    def _chosen(self, program: Program, context: Context, found: Sequence[Layer], rounding: Rounding) -> list[Layer]:
        """The layers that the noise allows, announced."""
        inputs = (context.calibration or (program.inputs,))[:4]
        wanted = [program.run(flat) for flat in inputs]
        stay, costs = affordable(program, rounding, found, inputs, wanted, self.noise)
        taken = []
        for layer in found:
            cost = costs.get(layer.node.name)
            told = "" if cost is None else f", {cost:.2g} of the outputs' energy by itself"
            if layer not in stay:
                context.skip(layer.node, f"stays in floating point{told}")
            elif context.take(layer.node, f"{self.weights} weights, {rounding.on.name} activations{told}"):
                taken.append(layer)
        return taken

    def _put(
        self, program: Program, chosen: Sequence[Layer], table: Rules, scales: dict[str, Scale],
        own: dict[str, Whole], on: Grid, weights: Grid,
    ) -> None:  # fmt: skip
        made = plan(chosen, table)
        for layer in chosen:
            item, scale = own[layer.node.name], scales[made.tensors[layer.source].name][0]
            integers = key(layer.node) != "linear" or fake(layer.source).dim() == 2
            put_bias(program, layer.node, item, scale if integers else None)
            put_weight(program, layer.node, item, weights)
        for node, root in made.tensors.items():
            put_activation(node, *scales[root.name], on, None if node in made.whole else made.layers)
        program.prune_weights()
        program.changed()
