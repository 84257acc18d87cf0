"""`QuantizeDynamic`: linear layers are computed on integers, with scales found while the model runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Self

from tersor.context import Context
from tersor.convolution import CONVOLUTIONS
from tersor.factor.options import whole
from tersor.program import Program
from tersor.quant.attribution import precision
from tersor.quant.dynamic import RULES, DynamicRounding, put_layers
from tersor.quant.fallback import fitting
from tersor.quant.grid import grid
from tersor.quant.plan import Layer, candidates
from tersor.quant.saturation import saturates
from tersor.quant.seen import smallest
from tersor.quant.weights import of_layers
from tersor.quant.worth import paying
from tersor.rewrite_values import key
from tersor.target import Target

LOOKED_AT = 4
"""Calibration inputs on which errors of outputs are compared."""


@dataclass(frozen=True)
class QuantizeDynamic:
    """Compute linear layers on eight-bit integers, and quantize what they read by the range that each run shows.

    Needs no calibration data, and suits activations whose range differs much from input to input. Convolutions are
    declined: no runtime has a fast kernel for them whose scales are not known beforehand. Layers stay in floating point
    until the rest adds no more than ``noise``, and the metric or the agreement is within the budget.

    Attributes:
        weights: format of weights: "int8", or "int7" where sums of products would overflow; "auto" asks the target.
        per: "tensor" takes one scale for everything that a layer reads, which runtimes fuse; "token" one for each row.
        noise: share of the outputs' energy that may be added, on calibration data; 1 quantizes whatever can be.
        anyway: also quantize layers for which that is predicted to cost time.
    """

    weights: str = "auto"
    per: Literal["tensor", "token"] = "tensor"
    noise: float = 0.05
    anyway: bool = False
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.weights != "auto":
            grid(self.weights)
        if self.per not in ("tensor", "token"):
            raise ValueError(f"per is {self.per!r}; wanted tensor or token")
        whole("noise", self.noise)

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """One scale for all that a layer reads, as runtimes on a CPU fuse it."""
        return (cls(),) if target.device == "cpu" else ()

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        layers = self._layers(program, context)
        if not layers:
            return
        why = saturates(context.target) if self.weights == "auto" else ""
        name = ("int7" if why else "int8") if self.weights == "auto" else self.weights
        looked_at = smallest(context.calibration or (program.inputs,), LOOKED_AT)
        own = of_layers(program, layers, grid(name), "nearest", looked_at, seed=context.seed)
        rounding = DynamicRounding({place: item.values for place, item in own.items()}, self.per)
        put = partial(put_layers, own=own, on=grid(name), per=self.per)
        stay, costs = fitting(program, rounding, layers, looked_at, put, noise=self.noise, quality=context.quality)
        told = f"{name} weights{f' ({why})' if why else ''}, activations quantized per {self.per} while the model runs"
        taken = [layer for layer in stay if context.take(layer.node, told)]
        for layer in (item for item in layers if item not in stay):
            cost = costs[layer.node.name]
            context.skip(layer.node, f"stays in floating point, {cost:.2g} of the outputs' energy by itself")
        if context.limit is None:
            given_back = {layer.node.name: costs.get(layer.node.name) for layer in layers if layer not in stay}
            context.precision = precision(program, rounding, layers, taken, given_back, looked_at[0], (name, why))
        put(program, taken)

    def _layers(self, program: Program, context: Context) -> list[Layer]:
        made = []
        for node, found in candidates(program, RULES):
            if isinstance(found, str):
                context.skip(node, found)
            else:
                made.append(found)
        for node in program.nodes:
            if key(node) in CONVOLUTIONS:
                context.skip(node, "convolutions on integers are slower than in floating point without known scales")
        if self.anyway:
            return made
        stay, reasons = paying(made, RULES)
        for layer, reason in reasons.items():
            context.skip(layer.node, reason)
        return stay
