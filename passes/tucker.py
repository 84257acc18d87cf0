"""`Tucker`: a k x k convolution becomes a thin 1 x 1, a small k x k core and a thin 1 x 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from tersor.context import Context
from tersor.convolution import CONVOLUTIONS, window
from tersor.factor import tucker as method
from tersor.factor.choices import Choice, settle
from tersor.factor.components import metrics
from tersor.factor.gradients import Metric
from tersor.factor.layers import Layer, Piece, layers, put_chain
from tersor.factor.options import count, share
from tersor.factor.record import Record, recorded
from tersor.factor.worth import Stage, paying
from tersor.program import Program
from tersor.target import Target

Ranks = tuple[int, int]
"""Channels of the core: outputs, inputs."""


@dataclass(frozen=True)
class Tucker:
    """Replace ungrouped k x k convolutions by Tucker-2 factors (Kim et al., arXiv:1511.06530).

    Factors minimise the error of outputs under the input moments of the calibration data, weighted by what matters to
    the program's outputs; the bias keeps the mean output. A rank that would be full leaves its 1 x 1 out. 1 x 1
    convolutions and linear layers are for ``low-rank``.

    Attributes:
        ratio: share of the operations of these convolutions that is kept, over all of them together.
        energy: share of the weighted energy that each side of each layer keeps, instead of a common budget.
        multiple: ranks are multiples of it.
        margin: a layer is replaced only if its predicted work falls below this share.
    """

    ratio: float = 0.5
    energy: float | None = None
    multiple: int = 8
    margin: float = 0.9
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        share("ratio", self.ratio)
        share("energy", self.energy)
        share("margin", self.margin)
        count("multiple", self.multiple)

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """Shares of the convolutions' operations that stay; nothing where there is none."""
        return tuple(cls(ratio=ratio) for ratio in (0.7, 0.5, 0.3)) if any(map(window, program.nodes)) else ()

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        found = [layer for layer in layers(program, context, CONVOLUTIONS) if layer.kernel > 1]
        records, seen = recorded(program, found, context.calibration), metrics(program, context, found)
        sites = [_site(record, item) for record, item in zip(records, seen, strict=True)]
        ranks = [self._ranks(layer, context) for layer in found]
        chosen = self._by_energy(sites, ranks) if self.energy is not None else self._by_budget(sites, ranks)
        for site, allowed, wanted in zip(sites, ranks, chosen, strict=True):
            if wanted is None:
                context.skip(site.layer.node, self._why_not(allowed))
            elif context.take(site.layer.node, f"core of {wanted[0]} x {wanted[1]} channels, was {_shape(site.layer)}"):
                _put(program, site, wanted)
        program.prune_weights()
        program.changed()

    def _ranks(self, layer: Layer, context: Context) -> list[Ranks]:
        """The pairs of ranks at which the chain is predicted to be faster."""
        outer, inner = ([*range(self.multiple, width, self.multiple), width] for width in layer.weight.shape[:2])
        pairs = [(left, right) for left in outer for right in inner if left <= right * layer.kernel]
        element = layer.weight.element_size()
        return paying(layer.stage, pairs, lambda pair: stages(layer, *pair), context.target, self.margin, element)

    def _by_energy(self, sites: Sequence[Site], ranks: Sequence[list[Ranks]]) -> list[Ranks | None]:
        wanted = [
            tuple(_reach(values, self.energy or 1.0) for values in (s.spectra.outer, s.spectra.inner)) for s in sites
        ]
        return [
            min(
                (p for p in allowed if p[0] >= w[0] and p[1] >= w[1]),
                key=lambda pair: flops(site.layer, *pair),
                default=None,
            )
            for site, allowed, w in zip(sites, ranks, wanted, strict=True)
        ]

    def _by_budget(self, sites: Sequence[Site], ranks: Sequence[list[Ranks]]) -> list[Ranks | None]:
        choices = [
            [Choice(flops(site.layer, *pair), site.spectra.error(*pair)) for pair in allowed]
            for site, allowed in zip(sites, ranks, strict=True)
        ]
        return settle(ranks, choices, [site.layer.stage.flops for site in sites], self.ratio)

    def _why_not(self, allowed: list[Ranks]) -> str:
        if not allowed:
            return f"no ranks make three layers cost less than {self.margin:.0%} of the one"
        return "ranks that pay keep too little" if self.energy is not None else "the budget does better elsewhere"


@dataclass(frozen=True)
class Site:
    """A convolution and what the calibration data says of it."""

    record: Record
    root: torch.Tensor
    metric: Metric
    spectra: method.Spectra

    @property
    def layer(self) -> Layer:
        """The convolution."""
        return self.record.layer


def _site(record: Record, seen: Metric | None) -> Site:
    root, metric = record.measures(seen)
    return Site(record, root, metric, method.spectra(record.layer.weight, root, metric))


def _reach(values: torch.Tensor, wanted: float) -> int:
    """How many values hold a share of their sum."""
    reached = values.cumsum(0) >= wanted * values.sum() * (1 - 1e-12)
    return int(reached.int().argmax()) + 1


def stages(layer: Layer, outer: int, inner: int) -> list[Stage]:
    """What the chain costs."""
    made = [Stage(layer.rows, outer * inner * layer.kernel, layer.places * inner + layer.rows * outer)]
    if inner < layer.inputs:
        made.append(Stage(layer.places, inner * layer.inputs, layer.places * (inner + layer.inputs)))
    if outer < layer.outputs:
        made.append(Stage(layer.rows, outer * layer.outputs, layer.rows * (outer + layer.outputs)))
    return made


def flops(layer: Layer, outer: int, inner: int) -> int:
    """Its operations."""
    return sum(stage.flops for stage in stages(layer, outer, inner))


def _put(program: Program, site: Site, ranks: Ranks) -> None:
    layer = site.layer
    made = method.tucker(layer.weight, site.root, site.metric, *ranks)
    core = made.core
    pieces = []
    if ranks[1] < layer.inputs:
        pieces.append(Piece(made.inner))
    else:
        core = torch.einsum("pqk,qi->pik", core.flatten(2), made.inner).reshape(ranks[0], *layer.weight.shape[1:])
    if ranks[0] < layer.outputs:
        pieces += [Piece(core), Piece(made.outer)]
    else:
        pieces.append(Piece(torch.einsum("op,pik->oik", made.outer, core.flatten(2)).reshape(-1, *core.shape[1:])))
    put_chain(program, layer, [*pieces[:-1], Piece(pieces[-1].weight, site.record.bias(made.weight))])


def _shape(layer: Layer) -> str:
    return f"{layer.outputs} x {layer.inputs}"
