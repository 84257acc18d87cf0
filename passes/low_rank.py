"""`LowRank`: a layer becomes two thin ones, through the principal components of its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

from tersor.context import Context
from tersor.convolution import CONVOLUTIONS
from tersor.factor.choices import Choice, settle
from tersor.factor.components import components, metrics
from tersor.factor.layers import Layer, Piece, layers, put_chain
from tersor.factor.options import count, share
from tersor.factor.principal import Components, factors
from tersor.factor.worth import Stage, paying
from tersor.program import Program
from tersor.target import Target


@dataclass(frozen=True)
class LowRank:
    """Replace linear layers and ungrouped convolutions by two thin layers, ``out x in`` by ``out x r`` and ``r x in``.

    The middle holds the first ``r`` principal components of the layer's outputs on calibration data, weighted by what
    matters to the program's outputs, and the bias keeps their mean (LiteASR, arXiv:2502.20583); a k x k convolution
    becomes one with ``r`` filters and a 1 x 1 (Zhang et al., arXiv:1505.06798). Ranks go where they save most error per
    operation; a layer that would not get cheaper on the target stays whole. Without calibration data the singular
    values of the weights decide.

    Attributes:
        ratio: share of the operations of these layers that is kept, over all of them together.
        energy: share of the weighted variance that each layer keeps, instead of a common budget.
        multiple: ranks are multiples of it.
        margin: a layer is replaced only if its predicted work falls below this share.
        convolutions: factorise convolutions with a kernel, too.
    """

    ratio: float = 0.7
    energy: float | None = None
    multiple: int = 8
    margin: float = 0.9
    convolutions: bool = True
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        share("ratio", self.ratio)
        share("energy", self.energy)
        share("margin", self.margin)
        count("multiple", self.multiple)

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """Shares of these layers' operations that stay."""
        return tuple(cls(ratio=ratio) for ratio in (0.8, 0.6, 0.4))

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        found = layers(program, context, ("linear", *CONVOLUTIONS))
        found = [layer for layer in found if self.convolutions or layer.kernel == 1]
        known = components(program, context, found, metrics(program, context, found))
        ranks = [self._ranks(layer, context) for layer in found]
        chosen = self._by_energy(known, ranks) if self.energy is not None else self._by_budget(found, known, ranks)
        for layer, parts, allowed, rank in zip(found, known, ranks, chosen, strict=True):
            if rank is None:
                context.skip(layer.node, self._why_not(layer, parts, allowed))
            elif context.take(layer.node, f"rank {rank} of {min(layer.matrix.shape)} keeps {_kept(parts, rank)}"):
                first, second, shift = factors(layer.matrix, layer.bias, parts, rank)
                put_chain(program, layer, [Piece(first.reshape(rank, *layer.weight.shape[1:])), Piece(second, shift)])
        program.prune_weights()
        program.changed()

    def _ranks(self, layer: Layer, context: Context) -> list[int]:
        """The ranks at which two layers are predicted to be faster than one."""
        ranks = range(self.multiple, min(layer.matrix.shape), self.multiple)
        return paying(
            layer.stage, ranks, partial(stages, layer), context.target, self.margin, layer.weight.element_size()
        )

    def _by_energy(self, known: Sequence[Components], ranks: Sequence[list[int]]) -> list[int | None]:
        wanted = [parts.rank(self.energy or 1.0) for parts in known]
        return [next((r for r in allowed if r >= w), None) for allowed, w in zip(ranks, wanted, strict=True)]

    def _by_budget(
        self, found: Sequence[Layer], known: Sequence[Components], ranks: Sequence[list[int]]
    ) -> list[int | None]:
        choices = [
            [Choice(flops(layer, rank), parts.tail(rank)) for rank in allowed]
            for layer, parts, allowed in zip(found, known, ranks, strict=True)
        ]
        return settle(ranks, choices, [layer.stage.flops for layer in found], self.ratio)

    def _why_not(self, layer: Layer, parts: Components, allowed: list[int]) -> str:
        if not allowed:
            shape = f"{layer.outputs} x {layer.matrix.shape[1]}"
            return f"no rank makes two layers cost less than {self.margin:.0%} of the {shape} one"
        best = f"the largest rank that pays, {allowed[-1]}, keeps {_kept(parts, allowed[-1])}"
        return f"{best}; {'too little' if self.energy is not None else 'the budget does better elsewhere'}"


def stages(layer: Layer, rank: int) -> list[Stage]:
    """What the two thin layers cost."""
    first = Stage(layer.rows, rank * layer.matrix.shape[1], layer.places * layer.inputs + layer.rows * rank)
    return [first, Stage(layer.rows, rank * layer.outputs, layer.rows * (rank + layer.outputs))]


def flops(layer: Layer, rank: int) -> int:
    """Their operations."""
    return sum(stage.flops for stage in stages(layer, rank))


def _kept(parts: Components, rank: int) -> str:
    return f"{parts.kept(rank):.1%} of the variance that matters"
