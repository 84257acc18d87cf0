"""`BlockDiagonal`: a wide linear layer becomes block-diagonal, or two block-diagonal factors with a permutation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from tersor.context import Context
from tersor.factor import monarch as method
from tersor.factor.blockwise import put_diagonal, put_monarch
from tersor.factor.choices import Choice, settle
from tersor.factor.components import input_tap, metrics
from tersor.factor.gradients import Metric
from tersor.factor.layers import Layer, layers
from tersor.factor.least_squares import refit_on, residual
from tersor.factor.observe import Moments, moments
from tersor.factor.options import count, share
from tersor.factor.principal import mixed
from tersor.factor.worth import Stage, paying
from tersor.program import Program
from tersor.rewrite_values import fake

DIAGONAL = 0
"""Stands for one block-diagonal matrix among the ranks of a Monarch matrix."""


@dataclass(frozen=True)
class BlockDiagonal:
    """Replace linear layers by block-diagonal matrix products, which batched kernels do without waste.

    In the Monarch form (Dao et al., arXiv:2204.00595) every block of inputs gives a few numbers to every block of
    outputs: two block-diagonal products and a permutation between them, projected block by block. In the plain form
    inputs and outputs are divided among the blocks, and each output sees the inputs of its own block only. What follows
    the inputs last is fitted to the layer's outputs under the covariance of the calibration data.

    Attributes:
        blocks: of inputs and of outputs; layers whose sizes are no multiples stay.
        monarch: the Monarch form; False takes the plain one.
        ratio: share of the operations of these layers that is kept, over all of them together.
        multiple: ranks of Monarch blocks are multiples of it.
        margin: a layer is replaced only if its predicted work falls below this share.
    """

    blocks: int = 4
    monarch: bool = True
    ratio: float = 0.5
    multiple: int = 4
    margin: float = 0.9
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        count("blocks", self.blocks, least=2)
        count("multiple", self.multiple)
        share("ratio", self.ratio)
        share("margin", self.margin)

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        found = [layer for layer in layers(program, context, ("linear",)) if self._fits(layer, context)]
        known = moments(program, [input_tap(layer) for layer in found], context.calibration)
        sites = [
            _site(layer, known.get(input_tap(layer)), item)
            for layer, item in zip(found, metrics(program, context, found), strict=True)
        ]
        ranks = [self._ranks(site.layer, context) for site in sites]
        for site, allowed, rank in zip(sites, ranks, self._by_budget(sites, ranks), strict=True):
            node = site.layer.node
            if rank is None:
                context.skip(node, "the budget does better elsewhere" if allowed else "no rank pays on the target")
            elif rank == DIAGONAL and context.take(node, f"{self.blocks} blocks on the diagonal"):
                _put_diagonal(program, site, self.blocks)
            elif rank != DIAGONAL and context.take(
                node, f"Monarch of {self.blocks} x {self.blocks} blocks, rank {rank}"
            ):
                _put_monarch(program, site, self.blocks, rank)
        program.prune_weights()
        program.changed()

    def _fits(self, layer: Layer, context: Context) -> bool:
        if layer.inputs % self.blocks or layer.outputs % self.blocks or fake(layer.source).dim() < 2:
            context.skip(layer.node, f"{layer.outputs} x {layer.inputs} is not {self.blocks} x {self.blocks} blocks")
            return False
        return True

    def _ranks(self, layer: Layer, context: Context) -> list[int]:
        most = min(layer.inputs, layer.outputs) // self.blocks
        ranks = range(self.multiple, most, self.multiple) if self.monarch else [DIAGONAL]
        element, made = layer.weight.element_size(), partial(stages, layer, self.blocks)
        return paying(layer.stage, ranks, made, context.target, self.margin, element)

    def _by_budget(self, sites: Sequence[Site], ranks: Sequence[list[int]]) -> list[int | None]:
        choices = [self._choices(site, allowed) for site, allowed in zip(sites, ranks, strict=True)]
        return settle(ranks, choices, [site.layer.stage.flops for site in sites], self.ratio)

    def _choices(self, site: Site, allowed: Sequence[int]) -> list[Choice]:
        if not allowed:
            return []
        values = site.spectrum(self.blocks) if self.monarch else torch.zeros(0)
        costs = [sum(stage.flops for stage in stages(site.layer, self.blocks, rank)) for rank in allowed]
        errors = [float(values[rank:].sum()) if rank else site.diagonal_error(self.blocks) for rank in allowed]
        return [Choice(cost, error) for cost, error in zip(costs, errors, strict=True)]


@dataclass(frozen=True)
class Site:
    """A linear layer and what the calibration data says of it.

    Attributes:
        layer: the layer.
        covariance: (in, in) of its inputs.
        mean: (in,) of its inputs; None where there is no data.
        scale: (out,) weight of each output's error.
    """

    layer: Layer
    covariance: Tensor
    mean: Tensor | None
    scale: Tensor

    def spectrum(self, blocks: int) -> Tensor:
        """See `tersor.factor.monarch.spectrum`."""
        return method.spectrum(self.layer.weight, self.roots(blocks), self.scale, blocks)

    def roots(self, blocks: int) -> Tensor:
        """See `tersor.factor.monarch.block_roots`."""
        return method.block_roots(self.covariance, self.layer.inputs, blocks)

    def diagonal(self, blocks: int) -> tuple[Tensor, Tensor, Tensor]:
        """The part of each output and of each input, and the fitted (out, in) weight, zero outside its blocks."""
        weight = self.layer.weight.double()
        energy = (weight * self.scale[:, None]).square() * self.covariance.diagonal()
        rows, columns = method.partition(energy, blocks)
        fitted = torch.zeros_like(weight)
        for block in range(blocks):
            outer, inner = (rows == block).nonzero().flatten(), (columns == block).nonzero().flatten()
            unit = torch.eye(self.layer.inputs, dtype=torch.float64)[inner]
            fitted[outer[:, None], inner[None]] = refit_on(weight[outer], self.covariance, unit)
        return rows, columns, fitted

    def diagonal_error(self, blocks: int) -> float:
        """What the plain form loses."""
        fitted = self.diagonal(blocks)[2]
        return float((residual(self.layer.weight, fitted, self.covariance) * self.scale.square()).sum())

    def bias(self, weight: Tensor) -> Tensor | None:
        """The bias with which another weight gives the same mean output."""
        return self.layer.bias_for(weight, self.mean)


def _site(layer: Layer, inputs: Moments | None, seen: Metric | None) -> Site:
    unit = torch.eye(layer.inputs, dtype=torch.float64)
    covariance = unit if inputs is None else mixed(inputs.covariance, unit, inputs.count)
    weight = layer.weight.double()
    energy = float(((weight @ covariance) * weight).sum())
    scale = torch.full((layer.outputs,), max(energy, 1e-300) ** -0.5, dtype=torch.float64)
    if seen is not None:
        scale = seen.root if seen.root.dim() == 1 else seen.root.norm(dim=1)
    return Site(layer, covariance, None if inputs is None else inputs.mean, scale)


def stages(layer: Layer, blocks: int, rank: int) -> list[Stage]:
    """What the products cost; every permutation reads and writes its tensor once."""
    rows, outer, inner = layer.rows, layer.outputs, layer.inputs
    if rank == DIAGONAL:
        return [Stage(rows, outer * inner // blocks, rows * (5 * inner + 5 * outer))]
    middle = blocks * blocks * rank
    first = Stage(rows, inner * blocks * rank, rows * (3 * inner + middle))
    return [first, Stage(rows, outer * blocks * rank, rows * (3 * middle + 3 * outer))]


def _put_monarch(program: Program, site: Site, blocks: int, rank: int) -> None:
    made = method.project(site.layer.weight, site.roots(blocks), site.scale, blocks, rank)
    second = torch.stack([_fitted(site, made, block) for block in range(blocks)])
    made = method.Monarch(made.first, second.unflatten(2, (blocks, rank)).permute(0, 2, 3, 1))
    put_monarch(program, site.layer, made, site.bias(made.weight))


def _fitted(site: Site, made: method.Monarch, block: int) -> Tensor:
    """(out / blocks, in blocks * rank) second factor of one block of outputs, fitted to the first."""
    layer, (inner, width, outer, rank) = site.layer, made.first.shape
    features = torch.zeros(inner, rank, inner, width, dtype=torch.float64)
    features[range(inner), :, range(inner)] = made.first[:, :, block].movedim(1, 2)
    return refit_on(layer.weight.unflatten(0, (outer, -1))[block], site.covariance, features.flatten(2).flatten(0, 1))


def _put_diagonal(program: Program, site: Site, blocks: int) -> None:
    rows, columns, fitted = site.diagonal(blocks)
    outer, inner = rows.argsort(stable=True), columns.argsort(stable=True)
    ordered = method.blocks(fitted[outer][:, inner], blocks, blocks)
    diagonal = torch.stack([ordered[block, block] for block in range(blocks)])
    put_diagonal(program, site.layer, diagonal, inner, outer, site.bias(fitted))
