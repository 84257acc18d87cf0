"""Arithmetic on the unsigned integer types that torch stores but cannot compute with (uint16, uint32, uint64)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tersor.capture.onnx.operators.precision import as_type

WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
_LOWEST = -(2**63)


def signed(value: Any) -> Any:
    """The value in a type that torch computes with; uint64 keeps its bits, so it is right modulo 2^64 only."""
    if isinstance(value, torch.Tensor) and value.dtype in WIDER:
        return as_type(value, WIDER[value.dtype])
    return value


def ordered(value: Any) -> Any:
    """Like `signed`, but uint64 is shifted so that comparisons are right.

    >>> ordered(torch.tensor([2**64 - 1, 0], dtype=torch.uint64)).tolist()
    [9223372036854775807, -9223372036854775808]
    """
    if isinstance(value, torch.Tensor) and value.dtype == torch.uint64:
        return torch.bitwise_xor(as_type(value, torch.int64), _LOWEST)
    return signed(value)


def _type(operands: tuple[Any, ...]) -> torch.dtype:
    return next(o.dtype for o in operands if isinstance(o, torch.Tensor))


def modular(function: Callable[..., torch.Tensor], *operands: Any) -> torch.Tensor:
    """``function`` (add, multiply, bit operations: right modulo 2^n), with the result in the operands' type."""
    dtype = _type(operands)
    result = function(*map(signed, operands))
    return as_type(result, dtype)


def choosing(function: Callable[..., torch.Tensor], *operands: Any) -> torch.Tensor:
    """``function`` (maximum, minimum, clamp: returns one of its operands), with the result in the operands' type."""
    dtype = _type(operands)
    result = function(*map(ordered, operands))
    if dtype == torch.uint64:
        result = torch.bitwise_xor(result, _LOWEST)
    return as_type(result, dtype)


def divide(a: Any, b: Any) -> torch.Tensor:
    """Integer quotient, rounded towards zero, in the operands' type."""
    if _type((a, b)) != torch.uint64:
        return modular(lambda x, y: torch.div(x, y, rounding_mode="trunc"), a, b)
    x, y = as_type(a, torch.int64), as_type(b, torch.int64)
    # Half the dividend fits int64; doubling that quotient is at most one short (Hacker's Delight, 9-3).
    half = torch.bitwise_and(torch.bitwise_right_shift(x, 1), 2**63 - 1)
    quotient = torch.div(half, torch.where(y < 0, 1, y), rounding_mode="trunc") * 2
    rest = x - quotient * y
    small = quotient + as_type(ordered(as_type(rest, torch.uint64)) >= ordered(b), torch.int64)
    large = as_type(ordered(a) >= ordered(b), torch.int64)
    return as_type(torch.where(y < 0, large, small), torch.uint64)


def remainder(a: Any, b: Any, *, truncated: bool) -> torch.Tensor:
    """The rest of the division: with the sign of ``a`` where truncated, else with the sign of ``b``."""
    if _type((a, b)) != torch.uint64:
        return modular(torch.fmod if truncated else torch.remainder, a, b)
    quotient = as_type(divide(a, b), torch.int64)
    return as_type(as_type(a, torch.int64) - quotient * as_type(b, torch.int64), torch.uint64)
