"""`Cp`: a k x k convolution becomes a thin 1 x 1, one k x k filter per channel, and a thin 1 x 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from tersor.context import Context
from tersor.convolution import CONVOLUTIONS
from tersor.factor.canonical import Canonical, canonical
from tersor.factor.choices import Choice, settle
from tersor.factor.components import metrics
from tersor.factor.layers import Layer, Piece, layers, put_chain
from tersor.factor.options import count, share
from tersor.factor.record import Record, recorded
from tersor.factor.worth import Stage, paying
from tersor.program import Program

TRIED = 6
"""How many ranks of a layer are fitted: there is no bound that tells the error of one without a fit."""


@dataclass(frozen=True)
class Cp:
    """Replace ungrouped k x k convolutions by CP factors (Astrid and Lee, arXiv:1701.07148).

    Like ``tucker``, but the core is depthwise, so the middle may be wider for the same work. Factors minimise the error
    of outputs under the input moments of the calibration data, weighted by what matters to the program's outputs; the
    bias keeps the mean output.

    Attributes:
        ratio: share of the operations of these convolutions that is kept, over all of them together.
        multiple: ranks are multiples of it.
        margin: a layer is replaced only if its predicted work falls below this share.
        sweeps: of alternating least squares.
    """

    ratio: float = 0.5
    multiple: int = 8
    margin: float = 0.9
    sweeps: int = 40
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        share("ratio", self.ratio)
        share("margin", self.margin)
        count("multiple", self.multiple)
        count("sweeps", self.sweeps)

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        found = [layer for layer in layers(program, context, CONVOLUTIONS) if layer.kernel > 1]
        records, seen = recorded(program, found, context.calibration), metrics(program, context, found)
        fits: list[list[Canonical]] = []
        for record, item in zip(records, seen, strict=True):
            root, metric = record.measures(item)
            ranks = self._ranks(record.layer, context)
            made = [canonical(record.layer.weight, root, metric, rank, self.sweeps, context.seed) for rank in ranks]
            fits.append(made)
        for record, fit in zip(records, self._settled(found, fits), strict=True):
            node = record.layer.node
            if fit is None:
                context.skip(node, "no rank that pays does better than the budget elsewhere")
            elif context.take(node, f"{len(fit.filters)} filters of {record.layer.kernel} taps between two 1 x 1"):
                _put(program, record, fit)
        program.prune_weights()
        program.changed()

    def _ranks(self, layer: Layer, context: Context) -> list[int]:
        """A few of the ranks at which the chain is predicted to be faster, evenly spread."""
        ranks = range(self.multiple, layer.outputs + layer.inputs, self.multiple)
        element = layer.weight.element_size()
        good = paying(layer.stage, ranks, partial(stages, layer), context.target, self.margin, element)
        return good[:: -(-len(good) // TRIED)] if good else []

    def _settled(self, found: Sequence[Layer], fits: Sequence[list[Canonical]]) -> list[Canonical | None]:
        choices = [
            [Choice(sum(stage.flops for stage in stages(layer, len(fit.filters))), fit.error) for fit in few]
            for layer, few in zip(found, fits, strict=True)
        ]
        return settle(fits, choices, [layer.stage.flops for layer in found], self.ratio)


def stages(layer: Layer, rank: int) -> list[Stage]:
    """What the chain costs."""
    return [
        Stage(layer.places, rank * layer.inputs, layer.places * (rank + layer.inputs)),
        Stage(layer.rows, rank * layer.kernel, layer.places * rank + layer.rows * rank),
        Stage(layer.rows, rank * layer.outputs, layer.rows * (rank + layer.outputs)),
    ]


def _put(program: Program, record: Record, fit: Canonical) -> None:
    pieces = [
        Piece(fit.inner),
        Piece(fit.filters[:, None], groups=len(fit.filters)),
        Piece(fit.outer, record.bias(fit.weight)),
    ]
    put_chain(program, record.layer, pieces)
