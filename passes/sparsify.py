"""`Sparsify`: N of every M weights along a layer's inputs stay, for hardware that skips the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tersor.calibrate import statistics
from tersor.context import Context
from tersor.convolution import CONVOLUTIONS
from tersor.factor.components import input_tap
from tersor.factor.layers import Layer, layers
from tersor.factor.least_squares import residual
from tersor.factor.options import count
from tersor.program import Program
from tersor.rewrite import insert_weight
from tersor.rewrite_arguments import set_argument
from tersor.rewrite_values import arguments
from tersor.sparse import masks
from tersor.sparse.icbs import refine
from tersor.sparse.layout import as_matrix, as_moments, as_weight
from tersor.sparse.pattern import Pattern, parse
from tersor.sparse.sparsegpt import sparsegpt
from tersor.target import Target

METHODS = ("sparsegpt", "wanda", "magnitude")
SAMPLES = 8192


@dataclass(frozen=True)
class Sparsify:
    """Remove weights in an N:M pattern, 2:4 by default, layer by layer.

    A target without kernels that skip the zeros gains nothing, and every layer is declined there. Which weights go and
    what the others become is decided by the outputs on calibration data (SparseGPT, arXiv:2301.00774), and improved by
    block coordinate descent over the masks (iCBS, arXiv:2411.17796).

    Attributes:
        pattern: such as "2:4".
        method: "sparsegpt" updates the weights that stay; "wanda" and "magnitude" only choose.
        sweeps: of refinement of masks and weights; 0 leaves them as the method found them.
        least: inputs that a layer has at least.
        anyway: do it where the target gains nothing, to measure what it costs.
    """

    pattern: str = "2:4"
    method: str = "sparsegpt"
    sweeps: int = 2
    least: int = 32
    anyway: bool = False
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        parse(self.pattern)
        count("sweeps", self.sweeps, least=0)
        count("least", self.least)
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; wanted one of {', '.join(METHODS)}")

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        pattern, chosen = parse(self.pattern), []
        for layer in layers(program, context, ("linear", *CONVOLUTIONS)):
            reason = self._objection(layer, pattern, context.target)
            if reason:
                context.skip(layer.node, reason)
            else:
                chosen.append(layer)
        for layer, gram in zip(chosen, _moments(program, chosen, context), strict=True):
            matrix = as_matrix(layer.weight).double()
            made = self._pruned(matrix, gram, pattern)
            lost = float(residual(matrix, made, gram).sum() / ((matrix @ gram) * matrix).sum().clamp_min(1e-300))
            if context.take(layer.node, f"{pattern}, {lost:.1%} of the output's energy lost"):
                _put(program, layer, as_weight(made, layer.weight.shape))
        program.prune_weights()
        program.changed()

    def _objection(self, layer: Layer, pattern: Pattern, target: Target) -> str:
        if not self.anyway and target.device == "cpu":
            return f"no kernel of target {target.name} skips the zeros of {pattern}: predicted gain 1.00"
        if layer.inputs % pattern.m:
            return f"{layer.inputs} inputs are not a multiple of {pattern.m}"
        return f"{layer.inputs} inputs are fewer than {self.least}" if layer.inputs < self.least else ""

    def _pruned(self, weight: Tensor, gram: Tensor, pattern: Pattern) -> Tensor:
        start = None
        if self.method == "sparsegpt":
            found = sparsegpt(weight, gram, pattern)
            mask, start = found.mask, found.weight
        elif self.method == "wanda":
            mask = masks.wanda(weight, gram.diagonal().sqrt(), pattern)
        else:
            mask = masks.magnitude(weight, pattern)
        if self.sweeps and self.method == "sparsegpt":
            return refine(weight, mask, gram, pattern, start=start, sweeps=self.sweeps).weight
        return weight * mask if start is None else start


def _moments(program: Program, chosen: Sequence[Layer], context: Context) -> list[Tensor]:
    """Second moments of what each layer reads, in the order of its matrix."""
    taps = [input_tap(layer) for layer in chosen]
    inputs = context.calibration or (program.inputs,)
    if not chosen:
        return []
    seen = statistics(program, taps, inputs, gram=True, samples=SAMPLES, seed=context.seed)
    found = []
    for layer, tap in zip(chosen, taps, strict=True):
        gram = seen[tap].gram
        assert gram is not None
        gram = (gram[0] if gram.dim() == 3 else gram) / max(seen[tap].samples, 1)
        found.append(as_moments(gram, layer.weight.shape))
    return found


def _put(program: Program, layer: Layer, weight: Tensor) -> None:
    name = f"{arguments(layer.node)['weight'].target}_sparse"
    made = insert_weight(program, layer.node, name, weight.to(layer.weight.dtype).contiguous())
    set_argument(layer.node, "weight", made)
