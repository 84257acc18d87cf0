"""What gradients are taken of, where there are no labels.

A loss maps flat outputs and flat inputs to one number, summed over samples. A user's own may look labels up by input.

Two need no label. `projection` is a random direction of the output: the square of its derivative is, on average, the
squared change of the whole output, to first order, so no direction is preferred and examples do not cancel. `energy` is
half the squared norm of the output: its derivative sees only changes along the output itself. Both are relative to the
output's own energy, so that several outputs count alike.

`divergence` compares two outputs where they are scores of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.interface import Flat

Loss: TypeAlias = Callable[[Flat, Flat], Tensor]
"""From flat outputs and flat inputs to a scalar, summed over samples."""


def projection(generator: torch.Generator) -> Loss:
    """The inner product of the outputs with random normal numbers, drawn anew at each call."""

    def loss(outputs: Flat, inputs: Flat) -> Tensor:
        return _total(
            (value * torch.randn(value.shape, generator=generator).to(value) for value in _floating(outputs)),
            (scale.sqrt() for scale in _scales(outputs)),
        )

    return loss


def energy(outputs: Flat, inputs: Flat) -> Tensor:
    """Half the squared norm of the outputs."""
    return _total((0.5 * value.square() for value in _floating(outputs)), _scales(outputs))


def divergence(wanted: Tensor, got: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the softmax distributions, in nats an example (cf. Hinton, arXiv:1503.02531)."""
    return F.kl_div(got.float().log_softmax(-1), wanted.float().log_softmax(-1), reduction="batchmean", log_target=True)


def _floating(outputs: Flat) -> list[Tensor]:
    return [value for value in outputs if isinstance(value, Tensor) and value.is_floating_point()]


def _scales(outputs: Flat) -> Iterator[Tensor]:
    """Energy of each output per sample, the first dimension counting samples."""
    for value in _floating(outputs):
        rows = len(value) if value.dim() else 1
        found = value.detach().double().square().sum() / max(rows, 1)
        yield found.clamp_min(torch.finfo(torch.float32).tiny)


def _total(values: Iterator[Tensor], scales: Iterator[Tensor]) -> Tensor:
    parts = [value.double().sum() / scale for value, scale in zip(values, scales, strict=True)]
    return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)
