"""Inputs that no user gave but that a rewrite must also be right on: small values, and masks that hide something.

Both are made of example inputs, which seldom show what they show: an epsilon matters only where values are small, and a
mask that is one throughout, or a bias of zeros, as in most examples, might as well not be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from tersor.interface import Flat

SMALL = 1e-3
_FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64}
_MASKS = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *_FLOATS}


def small(inputs: Sequence[torch.Tensor]) -> Flat | None:
    """The inputs with their floating-point values made small; None where there are none.

    >>> small([torch.ones(2), torch.tensor([3])])
    (tensor([0.0010, 0.0010]), tensor([3]))
    """
    if not any(value.dtype in _FLOATS for value in inputs):
        return None
    return tuple(value * SMALL if value.dtype in _FLOATS else value for value in inputs)


def varied(inputs: Sequence[torch.Tensor]) -> Flat | None:
    """The inputs with what is the same throughout made to say something; None where there is nothing of the kind.

    A mask is what is one throughout, of any type, or False throughout: the ends of its rows are turned, by another
    share in each row. Its rows are those of the first axis, and its ends those of the last one. The start of a row
    always stays, so that nothing is hidden altogether. Floating-point numbers that are zero throughout, as a bias of
    attention or an empty state, become a wave.

    >>> varied([torch.ones(2, 6, dtype=torch.int64)])
    (tensor([[1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0]]),)
    """
    made = tuple(_turned(value) if _is_mask(value) else _wave(value) if _is_zero(value) else value for value in inputs)
    return None if all(new is old for new, old in zip(made, inputs, strict=True)) else made


def _is_mask(value: torch.Tensor) -> bool:
    if value.dtype not in _MASKS or value.dim() == 0 or value.shape[-1] < 2 or not value.numel():
        return False
    return bool((value == 1).all()) or (value.dtype == torch.bool and not bool(value.any()))


def _turned(mask: torch.Tensor) -> torch.Tensor:
    """Half of the first row turned, a third of the second, a quarter of the third, and so again."""
    length, rows = mask.shape[-1], mask.shape[0] if mask.dim() > 1 else 1
    ends = torch.tensor([max(length // (2 + row % 3), 1) for row in range(rows)], device=mask.device)
    turned = torch.arange(length, device=mask.device) >= length - ends[:, None]
    if mask.dim() > 1:
        turned = turned.reshape(rows, *[1] * (mask.dim() - 2), length)
    return torch.logical_xor(mask, turned).to(mask.dtype)


def _is_zero(value: torch.Tensor) -> bool:
    return value.dtype in _FLOATS and value.numel() > 1 and not bool(value.any())


def _wave(value: torch.Tensor) -> torch.Tensor:
    return torch.arange(value.numel(), device=value.device).sin().to(value.dtype).reshape(value.shape)


def are_finite(values: Iterable[torch.Tensor]) -> bool:
    """Whether floating-point values hold neither NaN nor infinity."""
    return all(bool(value.isfinite().all()) for value in values if value.dtype in _FLOATS)
