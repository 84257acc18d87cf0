"""Importance from activations and weights: the error of the consumers' results when an index is zeroed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.axes.analysis import Axes
from tersor.axes.groups import Group
from tersor.axes.terms import Axis
from tersor.calibrate import Statistics, Tap, statistics
from tersor.context import Context
from tersor.importance.criterion import Scores, calibration
from tersor.importance.layers import Layer, energy, matrix
from tersor.importance.magnitude import magnitude
from tersor.importance.reads import Read, missed, reads
from tersor.importance.slices import by_owner
from tersor.program import Program


@dataclass(frozen=True)
class Activation:
    """Squared weights times mean squared activation, summed over everything that reads the index.

    A Simple and Effective Pruning Approach for Large Language Models (Wanda), Sun et al., ICLR 2024, arXiv:2306.11695,
    for whole inputs of a layer: the score is the increase of the mean squared error of the consumers' results when the
    index is zeroed and activations are uncorrelated. Products of two activations, such as attention scores, count with
    both mean squares. A group that is never summed over has its L2 magnitude.

    Attributes:
        relative: divide by the energy of each consumer's result, so that consumers and groups can be compared.
        centered: take the variance for the mean square, which is the error that remains after the consumers' biases
            take over the mean: Fluctuation-based Adaptive Structured Pruning for Large Language Models (FLAP), An et
            al., AAAI 2024, arXiv:2312.11983.
    """

    relative: bool = True
    centered: bool = False

    def __call__(self, program: Program, axes: Axes, groups: Sequence[Group], context: Context) -> Scores:
        """Sum over the reads of each index."""
        every = reads(program, axes)
        rows = {group.axis: every.get(group.axis, []) for group in groups}
        scores = errors(program, axes, rows, context, self.relative, self.centered)
        return {group.axis: scores[group.axis] if rows[group.axis] else magnitude(program, group) for group in groups}


def errors(
    program: Program, axes: Axes, rows: Mapping[Axis, Sequence[Read]], context: Context, relative: bool, centered: bool
) -> Scores:
    """The error when each index of each axis is zeroed at the given reads, shape [size]; zeros without any."""
    wanted = _taps(read for part in rows.values() for read in part)
    found = statistics(program, wanted, calibration(program, context)) if wanted else {}
    scores: Scores = {}
    for axis, part in rows.items():
        size = int(axis.size)
        scores[axis] = torch.zeros(size, dtype=torch.float64)
        for read in part:
            here = found[read.tap]
            square = (here.variance if centered else here.square).cpu()
            error = _weighted(program, axes, read, axis, square) if read.layer else square * _product(read, found)
            scale = _output_energy(program, read, found) if relative else 1.0
            scores[axis] += by_owner(error, read.owners(axis), size) / scale
    return scores


def activation(weight: Tensor, square: Tensor) -> Tensor:
    """``sum_o W[o, i]^2 * E[x_i^2]`` for each input i.

    Args:
        weight: [outputs, inputs].
        square: mean square of each input, shape [inputs].

    >>> activation(torch.tensor([[1.0, 2.0], [1.0, 0.0]]), torch.tensor([3.0, 1.0])).tolist()
    [6.0, 4.0]
    """
    return weight.square().sum(0) * square


def _weighted(program: Program, axes: Axes, read: Read, axis: Axis, square: Tensor) -> Tensor:
    """`activation` for each group of a layer, shape [inputs]; outputs that go with an index do not count."""
    layer = read.layer
    assert layer is not None
    weight = matrix(layer, program.weights[layer.weight].detach().double()).movedim(-1, 2)
    kept = weight * missed(axes, read, axis).unsqueeze(2).to(weight.device)
    inputs = square.to(weight.device).reshape(layer.groups, -1)
    return torch.cat([activation(part.flatten(0, 1), row) for part, row in zip(kept, inputs, strict=True)]).cpu()


def _product(read: Read, found: Mapping[Tap, Statistics]) -> Tensor | float:
    """Mean square of what a product of two activations multiplies with; 1 for a plain sum."""
    return found[Tap(read.node, *read.other)].square.cpu() if read.other else 1.0


def _output_energy(program: Program, read: Read, found: Mapping[Tap, Statistics]) -> float:
    """Mean square of a consumer's result without its bias, summed over its outputs; never zero.

    Where the result of a product is not seen, as inside attention, it is that of uncorrelated activations.
    """
    layer = read.layer
    if layer is None or layer.channel is None:
        square = found[read.tap].square.cpu()
        total = float((square * _product(read, found)).sum()) if layer is None else _blind(program, layer, square)
    else:
        result = found[Tap(layer.node, layer.node, layer.channel)]
        bias = program.weights[layer.bias].detach().double().cpu() if layer.bias else 0.0
        square, mean = result.square.cpu(), result.mean.cpu()
        total = float((square - 2 * bias * mean + bias * bias).sum())
    return max(total, torch.finfo(torch.float32).tiny)


def _blind(program: Program, layer: Layer, square: Tensor) -> float:
    weight = matrix(layer, energy(program.weights[layer.weight])).sum((1, 3)).reshape(-1).cpu()
    return float((weight * square).sum())


def _taps(wanted: Iterable[Read]) -> list[Tap]:
    """What has to be measured: what is read, what it is multiplied with, and the results."""
    found: dict[Tap, None] = {}
    for read in wanted:
        found[read.tap] = None
        if read.other:
            found[Tap(read.node, *read.other)] = None
        if read.layer is not None and read.layer.channel is not None:
            found[Tap(read.node, read.node, read.layer.channel)] = None
    return list(found)
