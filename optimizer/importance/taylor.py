"""Importance from gradients: how the output would change, to first order, without an index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.axes.analysis import Axes
from tersor.axes.groups import Group
from tersor.context import Context
from tersor.importance.criterion import Scores, calibration
from tersor.importance.gates import contributions
from tersor.importance.losses import Loss, projection
from tersor.program import Program


@dataclass(frozen=True)
class Taylor:
    """Mean magnitude of the first-order change of the loss.

    Pruning Convolutional Neural Networks for Resource Efficient Inference, Molchanov et al., ICLR 2017,
    arXiv:1611.06440.

    Attributes:
        loss: of flat outputs and inputs, summed over examples; None takes random directions of the output, which needs
            no labels (see `tersor.importance.losses`).
        draws: random directions per calibration input.
        batches: calibration inputs to use; None uses all.
    """

    loss: Loss | None = None
    draws: int = 4
    batches: int | None = None

    def __call__(self, program: Program, axes: Axes, groups: Sequence[Group], context: Context) -> Scores:
        """Mean of the magnitudes."""
        return _mean(self, program, axes, groups, context, taylor)


@dataclass(frozen=True)
class Taylor2:
    """Mean square of the first-order change of the loss, which is the second-order change under the Fisher information.

    Importance Estimation for Neural Network Pruning, Molchanov et al., CVPR 2019, arXiv:1906.10771; Faster gaze
    prediction with dense networks and Fisher pruning, Theis et al., 2018, arXiv:1801.05787. With random directions of
    the output it is the mean squared first-order change of the output, relative to its energy.

    Attributes:
        loss, draws, batches: as for `Taylor`.
    """

    loss: Loss | None = None
    draws: int = 4
    batches: int | None = None

    def __call__(self, program: Program, axes: Axes, groups: Sequence[Group], context: Context) -> Scores:
        """Mean of the squares."""
        return _mean(self, program, axes, groups, context, taylor2)


def taylor(changes: Tensor) -> Tensor:
    """Mean magnitude over examples, shape [n], of first-order changes [examples, n].

    >>> taylor(torch.tensor([[1.0, -2.0], [-3.0, 0.0]])).tolist()
    [2.0, 1.0]
    """
    return changes.abs().mean(0)


def taylor2(changes: Tensor) -> Tensor:
    """Mean square over examples, shape [n], of first-order changes [examples, n].

    >>> taylor2(torch.tensor([[1.0, -2.0], [-3.0, 0.0]])).tolist()
    [5.0, 2.0]
    """
    return changes.square().mean(0)


def _mean(
    criterion: Taylor | Taylor2, program: Program, axes: Axes, groups: Sequence[Group], context: Context,
    measure: Callable[[Tensor], Tensor],
) -> Scores:  # fmt: skip
    generator = torch.Generator().manual_seed(context.seed)
    loss = criterion.loss or projection(generator)
    draws = criterion.draws if criterion.loss is None else 1
    totals = {group.axis: torch.zeros(group.size, dtype=torch.float64) for group in groups}
    count = 0
    inputs = calibration(program, context, criterion.batches)
    for changes in contributions(program, axes, groups, inputs, loss, draws):
        count += len(next(iter(changes.values()), ()))
        for axis, rows in changes.items():
            totals[axis] += measure(rows) * len(rows)
    return {axis: value / max(count, 1) for axis, value in totals.items()}
