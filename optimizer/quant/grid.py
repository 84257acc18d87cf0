"""Grids: which numbers a quantized tensor can hold, and how real numbers are put on them and taken off again.

Everything here is a pure function on tensors. ``scale`` and ``zero`` broadcast against the values, see `spread`.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

from tersor.errors import UsageError


@dataclass(frozen=True)
class Grid:
    """Whole numbers that stand for real ones: ``real = scale * (level - zero)`` (Jacob et al., arXiv:1712.05877).

    Attributes:
        name: as users write it.
        lowest, highest: levels.
        dtype: what levels are stored as; levels of fewer than eight bits are stored one per byte until they are packed.
    """

    name: str
    lowest: int
    highest: int
    dtype: torch.dtype

    @property
    def levels(self) -> int:
        """How many there are."""
        return self.highest - self.lowest + 1

    @property
    def is_symmetric(self) -> bool:
        """Whether zero is in the middle, so that symmetric ranges need no zero point."""
        return self.lowest < 0


GRIDS = {
    "int8": Grid("int8", -128, 127, torch.int8),
    "uint8": Grid("uint8", 0, 255, torch.uint8),
    "int7": Grid("int7", -64, 63, torch.int8),
    "uint7": Grid("uint7", 0, 127, torch.uint8),
    "int4": Grid("int4", -8, 7, torch.int8),
    "uint4": Grid("uint4", 0, 15, torch.uint8),
}
"""Grids by name. Those of seven bits leave one of eight bits free: on CPUs without VNNI, products of an unsigned and a
signed byte are summed in pairs into sixteen bits, and overflow there otherwise."""


def grid(name: str | Grid) -> Grid:
    """The grid of this name; raises UsageError with the nearest names.

    >>> grid("int8").levels
    256
    """
    if isinstance(name, Grid):
        return name
    if name not in GRIDS:
        near = get_close_matches(name, GRIDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(GRIDS)}"
        raise UsageError(f"unknown integer format {name!r}", hint)
    return GRIDS[name]


def affine(low: Tensor, high: Tensor, on: Grid, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero point such that a range fits the grid; zero itself is always exact.

    Args:
        low, high: ends of the range, any equal shapes; the range is widened to hold zero.
        on: the grid.
        symmetric: the same range on both sides of zero, and a zero point in the grid's middle.

    Returns:
        Scale (float32, positive) and zero point (int32), of the shape of ``low``. An empty range has scale 1.
    """
    low, high = low.double().clamp(max=0), high.double().clamp(min=0)
    middle = 0 if on.is_symmetric else (on.levels + 1) // 2 + on.lowest
    if symmetric:
        scale = torch.maximum(-low / (middle - on.lowest), high / (on.highest - middle))
    else:
        scale = (high - low) / (on.levels - 1)
    scale = _usable(scale)
    zero = torch.full_like(scale, middle) if symmetric else (on.lowest - low / scale).round()
    return scale.float(), zero.clamp(on.lowest, on.highest).to(torch.int32)


def _usable(scale: Tensor) -> Tensor:
    """No scale is zero, or so small that float32 loses it."""
    tiny = torch.finfo(torch.float32).tiny
    return torch.where(scale < tiny, torch.where(scale == 0, 1.0, tiny), scale)


def quantize(value: Tensor, scale: Tensor, zero: Tensor, on: Grid) -> Tensor:
    """Levels of the grid's dtype, rounded to nearest with ties to even."""
    level = (value.double() / scale.double()).round() + zero
    return level.clamp(on.lowest, on.highest).to(on.dtype)


def dequantize(level: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Real numbers as float32."""
    return (level.to(torch.int32) - zero).float() * scale


def rounded(value: Tensor, scale: Tensor, zero: Tensor, on: Grid) -> Tensor:
    """What a value becomes when it is quantized and taken back, in its own dtype."""
    return dequantize(quantize(value, scale, zero, on), scale, zero).to(value.dtype)


def spread(parameter: Tensor, value: Tensor, axis: int) -> Tensor:
    """A parameter of shape [n] along a dimension of size n of a value, shaped to broadcast over it.

    >>> spread(torch.ones(3), torch.zeros(2, 3, 4), 1).shape
    torch.Size([1, 3, 1])
    """
    shape = [1] * value.dim()
    shape[axis] = -1
    return parameter.reshape(shape)


def grouped(value: Tensor, size: int) -> Tensor:
    """The last dimension in groups: [..., k] as [..., k / size, size]; raises UsageError where it does not divide."""
    if size < 1 or value.shape[-1] % size:
        raise UsageError(f"{value.shape[-1]} inputs in groups of {size}", "a group size that divides the inputs")
    return value.unflatten(-1, (-1, size))
