"""`Quantize`: layers are computed on integers, with scales from calibration data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from tersor.context import Context
from tersor.factor.options import whole
from tersor.program import Program
from tersor.quant.attribution import precision, share
from tersor.quant.fallback import fitting
from tersor.quant.grid import grid
from tersor.quant.placement import Rules, rules
from tersor.quant.plan import Layer, candidates
from tersor.quant.ranges import method
from tersor.quant.saturation import saturates
from tersor.quant.seen import enough, smallest
from tersor.quant.static import Prepared, prepare
from tersor.quant.weights import ROUNDINGS
from tersor.quant.worth import paying
from tersor.target import Target

LOOKED_AT = 4
"""Calibration inputs on which errors of outputs are compared, the smallest ones."""


@dataclass(frozen=True)
class Quantize:
    """Compute convolutions and linear layers on eight-bit integers (Jacob et al., arXiv:1712.05877).

    Weights have one scale per output channel, activations one per tensor, from what the calibration data showed. What
    is quantized is what the backend then fuses; every quantization is explicit in the graph. Layers stay in floating
    point where converting numbers for them costs more than integers save, and where they would add most to the error
    of the outputs: until the rest adds no more than ``noise``, and the metric or the agreement is within the budget.
    With ``relief``, a few layers that make more than half of the error leave even where all would be within both.

    Attributes:
        weights: format of weights: "int8", or "int7" where sums of products would overflow; "auto" asks the target.
        activations: format of activations; empty takes the backend's.
        ranges: "mse", "entropy", "percentile" or "min-max", see `tersor.quant.ranges`.
        backend: whose integer kernels decide what is quantized: "onnxruntime", "openvino" or "tensorrt"; "auto" takes
            the one that the program is made for, else the first on a CPU and the last on a GPU.
        rounding: of weights: "nearest", "gptq" or "adaround"; the shift of the outputs that any of them leaves is taken
            off the bias.
        noise: share of the outputs' energy that may be added, on calibration data; 1 quantizes whatever can be.
        relief: share of the multiply-adds that may be given back where that halves the error; 0 gives none back for it.
        anyway: also quantize layers for which that is predicted to cost time.
    """

    weights: str = "auto"
    activations: str = ""
    ranges: str = "mse"
    backend: str = "auto"
    rounding: str = "nearest"
    noise: float = 0.05
    relief: float = 0.0
    anyway: bool = False
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        rules(self.backend)
        method(self.ranges)
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"rounding is {self.rounding!r}; wanted one of {', '.join(ROUNDINGS)}")
        if self.weights != "auto":
            grid(self.weights)
        grid(self.activations or "uint8")
        whole("noise", self.noise)
        whole("relief", self.relief)

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """What each backend fuses, where several run on the device."""
        return (cls(), cls(backend="openvino")) if target.device == "cpu" else (cls(),)

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        table = rules(self.backend, context.target, context.backend)
        layers = self._layers(program, table, context)
        if not layers:
            return
        weights, why = self._weights(context.target)
        formats = grid(weights), grid(self.activations or table.activations)
        inputs = enough(program, context.calibration or (program.inputs,))
        ready = prepare(program, layers, table, formats, self.ranges, self.rounding, inputs, context.seed)
        stay, costs = self._stay(ready, context)
        told = f"{weights} weights{f' ({why})' if why else ''}, {formats[1].name} activations"
        taken = [layer for layer in stay if context.take(layer.node, f"{told}{_cost(layer, costs)}")]
        for layer in (item for item in layers if item not in stay):
            back = f"; {share(program, layer):.1%} of the multiply-adds given back"
            context.skip(layer.node, f"stays in floating point{_cost(layer, costs)}{back}")
        if context.limit is None:
            given_back = {layer.node.name: costs.get(layer.node.name) for layer in layers if layer not in stay}
            context.precision = precision(
                program, ready.rounding, layers, taken, given_back, smallest(inputs, 1)[0], (weights, why)
            )
        ready.put(program, taken)

    def _weights(self, target: Target) -> tuple[str, str]:
        """The format of weights, and why where the user did not choose it."""
        if self.weights != "auto":
            return self.weights, ""
        why = saturates(target)
        return ("int7", why) if why else ("int8", "")

    def _layers(self, program: Program, table: Rules, context: Context) -> list[Layer]:
        """The layers that could be computed on integers, and for which that is predicted to pay."""
        made = []
        for node, found in candidates(program, table):
            if isinstance(found, str):
                context.skip(node, found)
            elif context.target.device not in table.devices:
                context.skip(node, f"the integer kernels asked for run on {', '.join(table.devices)} only")
            else:
                made.append(found)
        if self.anyway:
            return made
        stay, reasons = paying(made, table)
        for layer, reason in reasons.items():
            context.skip(layer.node, reason)
        return stay

    def _stay(self, ready: Prepared, context: Context) -> tuple[list[Layer], dict[str, float]]:
        """The layers that the noise and the budget allow, and what each costs alone, where that was looked at."""
        program, inputs = ready.program, smallest(context.calibration or (ready.program.inputs,), LOOKED_AT)
        return fitting(
            program, ready.rounding, ready.layers, inputs, ready.put,
            noise=self.noise, relief=self.relief, quality=context.quality,
        )  # fmt: skip


def _cost(layer: Layer, costs: Mapping[str, float]) -> str:
    cost = costs.get(layer.node.name)
    return "" if cost is None else f", {cost:.2g} of the outputs' energy by itself"
