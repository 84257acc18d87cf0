"""`Sparsify`: N of every M weights along a layer's inputs stay, for hardware that skips the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from tersor.calibrate import statistics
from tersor.context import Context
from tersor.convolution import CONVOLUTIONS
from tersor.errors import UsageError
from tersor.factor.components import input_tap
from tersor.factor.layers import Layer, layers
from tersor.factor.options import count
from tersor.program import Program
from tersor.rewrite import insert_weight
from tersor.rewrite_arguments import set_argument
from tersor.rewrite_values import arguments
from tersor.sparse.gain import DTYPES, Gain, job_of, kernels, predict
from tersor.sparse.layout import as_matrix, as_moments, as_weight
from tersor.sparse.pattern import Pattern, is_pattern, parse
from tersor.sparse.prune import METHODS, prune
from tersor.target import Target

SAMPLES = 8192

WIDEST = 16384
"""Inputs times points of the kernel, for whose second moments there is memory: two gigabytes."""


@dataclass(frozen=True)
class Sparsify:
    """Remove weights in an N:M pattern, 2:4 by default, where kernels that skip the zeros make a layer faster.

    For each layer the target's data sheet tells the least time with and without such a kernel, and layers that gain
    less than ``gain`` stay as they are. Which weights go and what the others become is decided by the outputs on
    calibration data (SparseGPT, arXiv:2301.00774), and improved by block coordinate descent over the masks (iCBS,
    arXiv:2411.17796). Passes that follow keep the zeros: recovery fits the other weights only, and rounding leaves
    zero at zero, so that "sparsify{compute=int8},quantize" gives sparse integer layers.

    Attributes:
        pattern: such as "2:4".
        method: "sparsegpt" updates the weights that stay; "wanda" and "magnitude" only choose.
        sweeps: of refinement of masks and weights; 0 leaves them as the method found them.
        least: inputs that a layer has at least.
        backend: whose kernels count: "tensorrt" or "triton".
        compute: format that layers will be computed in, "float16", "bfloat16" or "int8"; empty is that of the weights.
        gain: predicted, that a layer must reach.
        anyway: do it where nothing is gained, to measure what it costs.
    """

    pattern: str = "2:4"
    method: str = "sparsegpt"
    sweeps: int = 2
    least: int = 32
    backend: str = "tensorrt"
    compute: str = ""
    gain: float = 1.1
    anyway: bool = False
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        parse(self.pattern)
        kernels(self.backend)
        count("sweeps", self.sweeps, least=0)
        count("least", self.least)
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; wanted one of {', '.join(METHODS)}")
        if self.compute and self.compute not in DTYPES:
            raise ValueError(f"compute is {self.compute!r}; wanted one of {', '.join(DTYPES)}")
        if not self.gain >= 1:
            raise ValueError(f"gain is {self.gain}; wanted 1 or more")

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """2:4 where the target's data sheet has kernels for it; then also for integers."""
        return (cls(), cls(compute="int8")) if target.sparse else ()

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        pattern, chosen = parse(self.pattern), []
        for layer in layers(program, context, ("linear", *CONVOLUTIONS)):
            told, worth = self._judged(layer, pattern, context.target)
            if worth:
                chosen.append((layer, told))
            else:
                context.skip(layer.node, told)
        grams = _moments(program, [layer for layer, _ in chosen], context)
        for (layer, told), gram in zip(chosen, grams, strict=True):
            self._prune(program, context, layer, told, gram, pattern)
        program.prune_weights()
        program.changed()

    def _judged(self, layer: Layer, pattern: Pattern, target: Target) -> tuple[str, bool]:
        """What a layer would gain or why it cannot, and whether it is to be pruned."""
        if reason := self._objection(layer, pattern):
            return reason, False
        job = job_of(layer.weight.shape, layer.rows, layer.places, layer.weight.dtype, self.compute)
        found = predict(job, pattern, self.backend, target)
        if isinstance(found, Gain) and found.ratio < self.gain and not self.anyway:
            return f"{found} is below {self.gain:g}", False
        return str(found), self.anyway or isinstance(found, Gain)

    def _objection(self, layer: Layer, pattern: Pattern) -> str:
        if layer.inputs % pattern.m:
            return f"{layer.inputs} inputs are not a multiple of {pattern.m}"
        if layer.inputs < self.least:
            return f"{layer.inputs} inputs are fewer than {self.least}"
        if is_pattern(as_matrix(layer.weight), pattern):
            return f"it is {pattern} sparse already"
        wide = layer.inputs * layer.kernel
        return f"{wide} inputs are more than the {WIDEST} whose moments fit in memory" if wide > WIDEST else ""

    def _prune(
        self, program: Program, context: Context, layer: Layer, told: str, gram: Tensor, pattern: Pattern
    ) -> None:
        try:
            made = prune(as_matrix(layer.weight).double(), gram, pattern, self.method, self.sweeps)
        except UsageError as error:
            context.skip(layer.node, str(error))
            return
        if context.take(layer.node, f"{pattern}, {made.lost:.1%} of the output's energy lost; {told}"):
            _put(program, layer, as_weight(made.weight, layer.weight.shape))


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
    old = arguments(layer.node)["weight"]
    name = f"{old.target}_sparse"
    made = insert_weight(program, layer.node, name, weight.to(layer.weight.dtype).contiguous())
    set_argument(layer.node, "weight", made)
    if not old.users:
        program.graph.erase_node(old)
