"""What a convolution reads at chosen output positions: the rows of its linear system."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tersor.convolution import Window


def patches(source: Tensor, at: Tensor, spatial: Sequence[int], window: Window) -> Tensor:
    """The inputs of chosen outputs of a convolution, zero where they lie in the padding.

    Args:
        source: input of shape [examples, channels, *positions].
        at: flat indices into [examples, *spatial], the output without its channels.
        spatial: sizes of the output's positions.
        window: geometry.

    Returns:
        Shape [len(at), channels, product of the kernel], taps in the kernel's order.
    """
    example, *places = torch.unravel_index(at, (source.shape[0], *spatial))
    index = example[:, None]
    inside = torch.ones_like(index, dtype=torch.bool)
    for axis, place in enumerate(places):
        size = source.shape[2 + axis]
        tap, valid = _taps(place, axis, size, window)
        index = (index[:, :, None] * size + tap[:, None, :]).flatten(1)
        inside = (inside[:, :, None] & valid[:, None, :]).flatten(1)
    table = source.movedim(1, -1).reshape(-1, source.shape[1])
    rows = table[index.flatten()].reshape(len(at), math.prod(window.kernel), -1)
    return rows.masked_fill(~inside[:, :, None], 0).transpose(1, 2)


def _taps(place: Tensor, axis: int, size: int, window: Window) -> tuple[Tensor, Tensor]:
    """Input positions of each tap along one axis, of shape [rows, taps], and which of them exist."""
    steps = torch.arange(window.kernel[axis], device=place.device) * window.dilation[axis]
    stride, padding = window.stride[axis], window.padding[axis][0]
    if window.transposed:
        spread = place[:, None] + padding - steps
        position, exists = spread.div(stride, rounding_mode="floor"), spread % stride == 0
    else:
        position = place[:, None] * stride - padding + steps
        exists = torch.ones_like(position, dtype=torch.bool)
    return position.clamp(0, size - 1), exists & (position >= 0) & (position < size)
