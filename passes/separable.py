"""`Separable`: a dense k x k convolution becomes depthwise filters and a pointwise mix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from tersor.context import Context
from tersor.convolution import CONVOLUTIONS
from tersor.factor import separable as method
from tersor.factor.choices import Choice, settle
from tersor.factor.components import metrics
from tersor.factor.gradients import Metric, flat_metric
from tersor.factor.layers import Layer, Piece, layers, put_chain
from tersor.factor.least_squares import Pairs, refit
from tersor.factor.observe import channel_rows, observe
from tersor.factor.options import count, share
from tersor.factor.worth import Stage, paying
from tersor.program import Program


@dataclass(frozen=True)
class Separable:
    """Replace ungrouped k x k convolutions by ``t`` depthwise filters per channel and a pointwise convolution.

    Filters come from a singular value decomposition of each channel's filters under the patches that it reads (network
    decoupling, Guo et al., arXiv:1808.05517); the pointwise weights are then fitted again to the layer's outputs on the
    calibration data by least squares.

    Attributes:
        ratio: share of the operations of these convolutions that is kept, over all of them together.
        terms: filters per channel in every layer, instead of a common budget; 0 leaves it to the budget.
        refit: fit the pointwise weights again; done only where there is calibration data.
        margin: a layer is replaced only if its predicted work falls below this share.
    """

    ratio: float = 0.5
    terms: int = 0
    refit: bool = True
    margin: float = 0.9
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        share("ratio", self.ratio)
        share("margin", self.margin)
        count("terms", self.terms, least=0)

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        found = [layer for layer in layers(program, context, CONVOLUTIONS) if layer.kernel > 1]
        sites = self._sites(program, context, found)
        allowed = [self._terms(layer, context) for layer in found]
        terms = (
            [self.terms if self.terms in few else 0 for few in allowed]
            if self.terms
            else self._by_budget(sites, allowed)
        )
        chosen = [(site, number) for site, number in zip(sites, terms, strict=True) if number]
        for site, few, number in zip(sites, allowed, terms, strict=True):
            if not number:
                context.skip(site.layer.node, self._why_not(few))
        self._replace(program, context, chosen)

    def _sites(self, program: Program, context: Context, found: Sequence[Layer]) -> list[Site]:
        seen = metrics(program, context, found)
        patches = {layer.name: Patches(layer) for layer in found}
        observe(program, context.calibration, {name: item.add for name, item in patches.items()})
        return [_site(patches[layer.name], item) for layer, item in zip(found, seen, strict=True)]

    def _terms(self, layer: Layer, context: Context) -> list[int]:
        """The numbers of filters at which two convolutions are predicted to be faster than one."""
        terms = range(1, min(layer.kernel, layer.outputs))
        return paying(
            layer.stage, terms, partial(stages, layer), context.target, self.margin, layer.weight.element_size()
        )

    def _by_budget(self, sites: Sequence[Site], allowed: Sequence[list[int]]) -> list[int]:
        choices = [
            [Choice(flops(site.layer, terms), float(site.values[terms:].sum())) for terms in few]
            for site, few in zip(sites, allowed, strict=True)
        ]
        settled = settle(allowed, choices, [site.layer.stage.flops for site in sites], self.ratio)
        return [terms or 0 for terms in settled]

    def _replace(self, program: Program, context: Context, chosen: Sequence[tuple[Site, int]]) -> None:
        made = [method.separate(site.layer.weight, site.roots, site.metric, terms) for site, terms in chosen]
        fits = [Fit(site.layer, item.depthwise) for (site, _), item in zip(chosen, made, strict=True)]
        if self.refit:
            observe(program, context.calibration, {fit.layer.name: fit.add for fit in fits})
        for (site, terms), item, fit in zip(chosen, made, fits, strict=True):
            layer = site.layer
            bias = None if layer.bias is None else layer.bias.double()
            mix, bias = refit(item.pointwise, fit.pairs) if fit.pairs.is_usable() else (item.pointwise, bias)
            if context.take(
                layer.node, f"{terms} depthwise filter{'s' * (terms > 1)} a channel, was {layer.kernel} dense taps"
            ):
                put_chain(program, layer, [Piece(item.depthwise, groups=layer.inputs), Piece(mix, bias)])
        program.prune_weights()
        program.changed()

    def _why_not(self, few: list[int]) -> str:
        if not few:
            return f"no number of filters makes two convolutions cost less than {self.margin:.0%} of the one"
        return f"{self.terms} filters a channel do not pay" if self.terms else "the budget does better elsewhere"


@dataclass
class Patches:
    """Second moments of the patches that each channel of a convolution reads."""

    layer: Layer
    total: Tensor | None = None
    count: int = 0

    def add(self, args: Sequence[Any], result: Any) -> None:
        """Take in one calibration input; patches are the outputs of unit kernels."""
        inputs: Tensor = args[0]
        taps = self.layer.kernel
        unit = torch.eye(taps, dtype=inputs.dtype).reshape(taps, 1, *self.layer.weight.shape[2:])
        for image in inputs:
            columns = self.layer.run(image[:, None], unit).flatten(2)
            made = method.patch_moments(columns[None])
            self.total = made if self.total is None else self.total + made
            self.count += 1


@dataclass
class Fit:
    """Pairs of what the depthwise filters give and what the layer gave."""

    layer: Layer
    depthwise: Tensor

    def __post_init__(self) -> None:
        self.pairs = Pairs.empty(len(self.depthwise), self.layer.outputs)

    def add(self, args: Sequence[Any], result: Tensor) -> None:
        """Take in one calibration input."""
        filtered = self.layer.run(args[0], self.depthwise.to(args[0].dtype), groups=self.layer.inputs)
        self.pairs.add(channel_rows(filtered), channel_rows(result))


@dataclass(frozen=True)
class Site:
    """A convolution and what the calibration data says of it."""

    layer: Layer
    roots: Tensor
    metric: Metric
    values: Tensor


def _site(patches: Patches, seen: Metric | None) -> Site:
    layer = patches.layer
    average = None if patches.total is None else patches.total / patches.count
    roots = method.channel_roots(average, layer.inputs, layer.kernel)
    flat = flat_metric(layer.outputs)
    energy = float(method.spectrum(layer.weight, roots, flat).sum())
    metric = seen or flat_metric(layer.outputs, max(energy, 1e-300) ** -0.5)
    return Site(layer, roots, metric, method.spectrum(layer.weight, roots, metric))


def stages(layer: Layer, terms: int) -> list[Stage]:
    """What the two convolutions cost."""
    wide = layer.inputs * terms
    first = Stage(layer.rows, wide * layer.kernel, layer.places * layer.inputs + layer.rows * wide)
    return [first, Stage(layer.rows, wide * layer.outputs, layer.rows * (wide + layer.outputs))]


def flops(layer: Layer, terms: int) -> int:
    """Their operations."""
    return sum(stage.flops for stage in stages(layer, terms))
