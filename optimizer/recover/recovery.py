"""`recover`: the repairs by name, one after another, each kept only where the outputs come nearer to the original's."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, fx

from tersor.errors import UsageError
from tersor.program import Program
from tersor.progress import Progress, Silent
from tersor.recover.correspondence import Correspondence
from tersor.recover.course import Course
from tersor.recover.distill import learn
from tersor.recover.layers import bias_unwritable, layer_of, unwritable
from tersor.recover.layerwise import Repair, layerwise
from tersor.recover.least_squares import LeastSquares
from tersor.recover.loss import output_loss
from tersor.recover.records import LayerRecord
from tersor.recover.samples import MEMORY, Samples, split, within
from tersor.recover.statistics import BatchNorm, bias_re_estimation

METHODS = ("least-squares", "bias", "distill")
"""What `recover` can be asked for. The first two go layer by layer and re-estimate batch norms too."""


FEW = 32


@dataclass(frozen=True)
class Recovered:
    """What recovery gave.

    Attributes:
        program: the repaired program; the damaged one itself where nothing helped.
        layers: one record for each node that a kept layer-wise repair looked at.
        loss_before, loss_after: `tersor.recover.loss.output_loss` on calibration inputs that were not fitted on.
        notes: what the user should know.
    """

    program: Program
    layers: list[LayerRecord] = field(default_factory=list)
    loss_before: float = 0.0
    loss_after: float = 0.0
    notes: list[str] = field(default_factory=list)


def recover(
    original: Program,
    damaged: Program,
    correspondence: Correspondence,
    calibration: Iterable[Sequence[Tensor]],
    method: str | Sequence[str] = "least-squares",
    progress: Progress | None = None,
    seed: int = 0,
    seconds: float = 60.0,
    course: Course | None = None,
    memory: int = MEMORY,
) -> Recovered:
    """Repair what a lossy pass damaged, without labels; neither program is changed.

    Args:
        original: the program before the lossy pass.
        damaged: the program after it, with the original's node names where the nodes still mean the same.
        correspondence: which part of an original value a damaged one stands for: ``Correspondence.cut(axes, kept)``
            after `tersor.axes.cut`, ``Correspondence()`` after passes that keep shapes.
        calibration: unlabelled flat inputs; the last quarter only judges.
        method: one of `METHODS`, or several in order.
        progress: takes notice of each layer, and of each hundredth of the distillation.
        seed: of everything random.
        seconds: for the distillation.
        course: how to distill, instead of ``Course(seconds=seconds, seed=seed)``.
        memory: bytes of activations that the layer-wise repairs may keep; they use fewer inputs where it is short.

    Returns:
        A `Recovered`, whose program is never further from the original on the judging inputs than ``damaged``.

    Raises:
        UsageError: an unknown method, or programs that do not belong together.
        InputError: no calibration inputs, or some that do not fit.
    """
    methods = _checked((method,) if isinstance(method, str) else tuple(method))
    _same_interface(original, damaged)
    if "distill" not in methods and not any(_is_repairable(damaged, node) for node in damaged.nodes):
        return Recovered(damaged, notes=["nothing is repaired: no layer has a weight or a bias that can be replaced"])
    samples = split(original, calibration)
    few = within(samples, original, memory)
    loss = output_loss(original, damaged, samples.held)
    state = Recovered(damaged, loss_before=loss, loss_after=loss, notes=_doubts(samples, few))
    course = course or Course(seconds=seconds, seed=seed)
    task = _Task(original, correspondence, samples, few, progress or Silent(), seed, course)
    for position, name in enumerate(methods):
        if name == "distill":
            state = task.distilled(state, alone=len(methods) == 1)
        else:
            state = task.repaired(state, name, last=position == len(methods) - 1)
    return state


@dataclass(frozen=True)
class _Task:
    """Everything that stays the same from one method to the next."""

    original: Program
    correspondence: Correspondence
    samples: Samples
    few: Samples
    progress: Progress
    seed: int
    course: Course

    def repaired(self, state: Recovered, name: str, last: bool) -> Recovered:
        """A layer-wise method; if least squares comes last, the judging inputs may teach too once they have judged."""
        program, layers = self._layerwise(state.program, name)
        found = _better(state, name, program, output_loss(self.original, program, self.samples.held), layers)
        if not last or name != "least-squares" or found.program is state.program or not self.samples.separate:
            return found
        program, layers = self._layerwise(state.program, name, refit=True)
        if output_loss(self.original, program, self.samples.held) > found.loss_after:
            return found
        return replace(found, program=program, layers=[*state.layers, *layers])

    def distilled(self, state: Recovered, alone: bool) -> Recovered:
        """Distillation; a program that cannot be differentiated is an error only where nothing else was asked for."""
        try:
            found = learn(self.original, state.program, self.samples, self.course, self.correspondence, self.progress)
        except UsageError as error:
            if alone:
                raise
            return replace(state, notes=[*state.notes, f"distill is left out: {error}"])
        return _better(state, "distill", found.program, found.after, [])

    def _layerwise(self, damaged: Program, name: str, refit: bool = False) -> tuple[Program, list[LayerRecord]]:
        first = bias_re_estimation(self.seed) if name == "bias" else LeastSquares(seed=self.seed, refit=refit)
        repairs: tuple[Repair, ...] = (first, BatchNorm())
        return layerwise(self.original, damaged, self.correspondence, self.few, repairs, self.progress)


def _better(state: Recovered, name: str, program: Program, loss: float, layers: list[LayerRecord]) -> Recovered:
    """The new program, or the state before it, with a note, where it is no nearer to the original."""
    if not loss < state.loss_after:
        note = f"{name} is left out: loss {loss:.3g} on judging inputs, {state.loss_after:.3g} without it"
        return replace(state, notes=[*state.notes, note])
    return replace(state, program=program, layers=[*state.layers, *layers], loss_after=loss)


def _is_repairable(program: Program, node: fx.Node) -> bool:
    """Whether a layer-wise repair could change a node's constants; those of quantized layers it could not."""
    layer = layer_of(node)
    if layer is None:
        return BatchNorm().applies(node)
    return not (unwritable(program, layer) and bias_unwritable(program, layer))


def _checked(methods: tuple[str, ...]) -> tuple[str, ...]:
    for name in methods:
        if name not in METHODS:
            near = difflib.get_close_matches(str(name), METHODS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(METHODS)}"
            raise UsageError(f"unknown recovery method {name!r}", hint)
    if not methods:
        raise UsageError("no recovery method", f"choose from {', '.join(METHODS)}")
    return methods


def _same_interface(original: Program, damaged: Program) -> None:
    if original.interface.input_names != damaged.interface.input_names or len(original.outputs) != len(damaged.outputs):
        raise UsageError(
            f"the damaged program takes {list(damaged.interface.input_names)} and gives {len(damaged.outputs)} outputs",
            f"wanted {list(original.interface.input_names)} and {len(original.outputs)} as the original",
        )


def _doubts(samples: Samples, few: Samples) -> list[str]:
    notes, count = [], _examples(samples)
    if not samples.separate:
        notes.append("there are too few calibration inputs to judge on others than those fitted on; give at least two")
    elif count < FEW:
        notes.append(f"recovery from {count} examples generalises poorly; a few hundred are usual")
    if few is not samples:
        notes.append(f"layers are repaired with {_examples(few)} of {count} examples, for which there is memory")
    return notes


def _examples(samples: Samples) -> int:
    return sum(len(flat[0]) if flat[0].dim() else 1 for flat in samples.batches)
