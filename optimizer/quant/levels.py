"""Quantized weights: their levels and scales, the plain ways to find them, and what they do to the outputs.

Weights here are matrices ``[out, in]``, or stacks of them ``[groups, out, in]`` for a grouped convolution flattened as
its windows are; Gram matrices are ``[in, in]`` or ``[groups, in, in]``, the sum or the mean of ``x x^T`` over inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.errors import InputError, UsageError
from tersor.factor.least_squares import residual
from tersor.quant.grid import Grid, affine, dequantize, grouped, quantize


@dataclass(frozen=True, eq=False)
class Levels:
    """A quantized weight.

    Attributes:
        level: of the grid's dtype, [..., out, in].
        scale: float32 [..., out, n], each for ``in / n`` neighbouring inputs.
        zero: int32, as ``scale``.
    """

    level: Tensor
    scale: Tensor
    zero: Tensor

    @property
    def values(self) -> Tensor:
        """Real numbers, float32 [..., out, in]."""
        inputs = self.level.shape[-1]
        return dequantize(self.level, wide(self.scale, inputs), wide(self.zero, inputs))


def wide(parameter: Tensor, inputs: int) -> Tensor:
    """Parameters of groups ``[..., n]``, one for each input ``[..., inputs]``.

    >>> wide(torch.tensor([[1, 2]]), 4).tolist()
    [[1, 1, 2, 2]]
    """
    return parameter.repeat_interleave(inputs // parameter.shape[-1], -1)


def min_max(weight: Tensor, on: Grid, *, group: int | None = None, symmetric: bool = True) -> tuple[Tensor, Tensor]:
    """Scale and zero point ``[..., out, n]`` that clip nothing, for groups of ``group`` inputs; None: for all."""
    low, high = grouped(weight, weight.shape[-1] if group is None else group).aminmax(dim=-1)
    return affine(low, high, on, symmetric=symmetric)


def nearest(weight: Tensor, scale: Tensor, zero: Tensor, on: Grid) -> Levels:
    """Every weight ``[..., out, in]`` on its own nearest level."""
    inputs = weight.shape[-1]
    return Levels(quantize(weight, wide(scale, inputs), wide(zero, inputs), on), scale, zero)


def better(weight: Tensor, gram: Tensor, first: Levels, second: Levels) -> Levels:
    """For each output the one of two with less error; the first where they are even."""
    wins = (residual(weight, second.values, gram) < residual(weight, first.values, gram))[..., None]
    pairs = ((first.level, second.level), (first.scale, second.scale), (first.zero, second.zero))
    return Levels(*(torch.where(wins, new, old) for old, new in pairs))


def checked(weight: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float64 on the weight's device.

    Raises:
        UsageError: the weight is empty or not finite, or the shapes do not fit.
        InputError: the Gram matrix is not finite.
    """
    square = (*weight.shape[:-2], weight.shape[-1], weight.shape[-1]) if weight.dim() > 1 else ()
    if not weight.numel() or tuple(gram.shape) != square:
        raise UsageError(
            f"a weight of shape {list(weight.shape)} and a Gram matrix of shape {list(gram.shape)}",
            "give [..., out, in] and [..., in, in], none of them empty",
        )
    if not bool(weight.isfinite().all()):
        raise UsageError("the weight has entries that are NaN or infinite", "leave this layer as it is")
    if not bool(gram.isfinite().all()):
        raise InputError("the Gram matrix of a layer's inputs is not finite", "look for NaN in the calibration inputs")
    return weight.detach().double(), gram.detach().to(weight.device).double()
