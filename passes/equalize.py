"""`Equalize`: channels between layers are evened out, so that one scale suits all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, fx

from tersor.calibrate import observe
from tersor.context import Context
from tersor.factor.options import whole
from tersor.passes._streams import Stream, streams
from tersor.passes._weights import share_weight_nodes
from tersor.program import Program
from tersor.quant.equalize import Layer, Reader, balanced
from tersor.quant.grid import grid
from tersor.quant.smooth import Moments, Seen
from tersor.rewrite_arguments import set_constant
from tersor.rewrite_values import arguments, fake
from tersor.target import Target


@dataclass(frozen=True)
class Equalize:
    """Divide each channel that layers make by a factor, and multiply the weights that read it by the same.

    That changes nothing where all between the layers scales with its input: nothing, ReLU, leaky ReLU, pooling,
    residual sums, concatenation (Nagel et al., arXiv:1906.04721). Behind a normalisation `smooth` does the same.
    Factors are those with the least predicted error of layers with a scale per output and one range of activations.

    Attributes:
        weights, activations: the formats that the layers are to be quantized to.
        least: share of the predicted error that must go, else channels stay as they are; less than a sixth is within
            what the prediction is off by.
        limit: the most that a channel is divided or multiplied by.
        powers_of_two: take only such factors; the outputs then stay the same to the bit, for a part of the gain.
    """

    weights: str = "int8"
    activations: str = "uint8"
    least: float = 0.15
    limit: float = 256.0
    powers_of_two: bool = False
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole("least", self.least)
        grid(self.weights)
        grid(self.activations)
        if not 1 < self.limit <= 2**16:
            raise ValueError(f"limit is {self.limit}; wanted more than 1 and at most 65536")

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """One setting: it finds factors by itself."""
        return (cls(),)

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        share_weight_nodes(program)
        found = []
        for stream in streams(program):
            if stream.problem:
                context.skip(stream.makers[0], stream.problem)
            else:
                found.append(stream)
        if not found:
            return
        seen = {source.name: Seen(dim) for stream in found for source, dim in stream.sources()}
        observe(program, {name: item.add for name, item in seen.items()}, context.calibration or (program.inputs,))
        moments = {name: item.moments() for name, item in seen.items()}
        for stream in found:
            self._equalize(program, stream, moments, context)
        program.prune_weights()
        program.changed()

    def _equalize(self, program: Program, stream: Stream, moments: dict[str, Moments], context: Context) -> None:
        readers = [
            Reader(_layer(program, node), moments[arguments(node)["input"].name], stream.into[node])
            for node in stream.readers
        ]
        made = _made(program, stream)
        factor, before, after = balanced(
            made,
            readers,
            grid(self.activations),
            grid(self.weights),
            limit=self.limit,
            powers_of_two=self.powers_of_two,
        )
        gain = 1 - after / max(before, 1e-300)
        node = stream.makers[0]
        if gain < self.least or bool((factor == 1).all()):
            context.skip(node, f"{max(gain, 0.0):.0%} of the predicted error would go")
            return
        ranges = [_ratio(readers, item) for item in (torch.ones_like(factor), factor)]
        told = f"{gain:.0%} of the predicted error goes; ranges of channels {ranges[0]:.3g}:1, now {ranges[1]:.3g}:1"
        if context.take(node, told):
            _apply(program, stream, factor)


def _layer(program: Program, node: fx.Node) -> Layer:
    weight = program.weight(arguments(node)["weight"])
    assert weight is not None
    return Layer(weight, None, int(arguments(node).get("groups", 1)))


def _made(program: Program, stream: Stream) -> Tensor:
    """The largest absolute weight that makes each channel, float64."""
    peaks = torch.zeros(stream.channels, dtype=torch.float64)
    for node in stream.makers:
        weight = _layer(program, node).weight.detach().double().abs().flatten(1).amax(1)
        peaks = peaks.scatter_reduce(0, stream.out[node], weight.cpu(), "amax")
    return peaks


def _ratio(readers: Sequence[Reader], factor: Tensor) -> float:
    """The largest range of a channel by the smallest that is not zero, for the worst reader."""
    worst = 1.0
    for item in readers:
        width = (item.moments.high - item.moments.low) / factor[item.places]
        width = width[width > 0]
        worst = max(worst, float(width.max() / width.min())) if len(width) else worst
    return worst


def _apply(program: Program, stream: Stream, factor: Tensor) -> None:
    for node in stream.makers:
        given, scale = arguments(node), factor[stream.out[node]]
        weight, bias = program.weight(given["weight"]), program.weight(given["bias"])
        assert weight is not None
        _set(program, node, "weight", weight.double() / scale.reshape(-1, *[1] * (weight.dim() - 1)))
        if bias is not None:
            _set(program, node, "bias", bias.double() / scale)
    for node in stream.readers:
        layer, scale = _layer(program, node), factor[stream.into[node]]
        parts = layer.weight.double().reshape(layer.groups, -1, *layer.weight.shape[1:])
        parts = parts * scale.reshape(layer.groups, 1, -1, *[1] * (layer.weight.dim() - 2))
        _set(program, node, "weight", parts.reshape(layer.weight.shape))


def _set(program: Program, node: fx.Node, name: str, value: Tensor) -> None:
    set_constant(program, node, name, value.to(fake(node).dtype).contiguous(), f"{node.name}_{name}")
