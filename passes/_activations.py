"""Rules that recognise activation functions spelled out in arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from tersor.rewrite import AnyRule, Match, Rule
from tersor.rewrite_values import fake, is_floating, positive, tensor

aten = torch.ops.aten

_TANH_SCALE = math.sqrt(2 / math.pi)


def _float(match: Match) -> str | None:
    return None if is_floating(match["x"]) else ""


def _family(name: str, replacement: Callable[..., Any], *patterns: Callable[..., Any]) -> tuple[Rule, ...]:
    """One activation in several spellings."""
    return tuple(Rule(name, pattern, replacement, _float) for pattern in patterns)


def _half_products(gate: Callable[[Any], Any]) -> tuple[Callable[..., Any], ...]:
    """``0.5 * x * gate(x)`` with the factors grouped in each way."""
    return (
        lambda x: x * gate(x) * 0.5,
        lambda x: x * (gate(x) * 0.5),
        lambda x: (x * 0.5) * gate(x),
    )


def _erf_gates() -> tuple[Callable[[Any], Any], ...]:
    return (
        lambda x: aten.erf(x * (1 / math.sqrt(2))) + 1,
        lambda x: aten.erf(x / math.sqrt(2)) + 1,
    )


def _tanh_gates() -> tuple[Callable[[Any], Any], ...]:
    cubes = (lambda x: aten.pow(x, 3), lambda x: x * x * x, lambda x: x * (x * x))
    scaled = tuple(lambda x, cube=cube: aten.tanh((x + cube(x) * 0.044715) * _TANH_SCALE) + 1 for cube in cubes)
    squares = (
        lambda x: (x * _TANH_SCALE) * (x * 0.044715 * x + 1),
        lambda x: (x * _TANH_SCALE) * (x * x * 0.044715 + 1),
        lambda x: x * _TANH_SCALE * (x * (x * 0.044715) + 1),
        lambda x: x * (x * x * 0.044715 + 1) * _TANH_SCALE,
        lambda x: x * ((x * x * 0.044715 + 1) * _TANH_SCALE),
        lambda x: x * (x * x * (0.044715 * _TANH_SCALE) + _TANH_SCALE),
        lambda x: (x + x * 0.044715 * x * x) * _TANH_SCALE,
    )
    return scaled + tuple(lambda x, inner=inner: aten.tanh(inner(x)) + 1 for inner in squares)


def _softmax_check(match: Match) -> str | None:
    x = tensor(match["x"])
    dims = match["dim"]
    axes = [dims] if isinstance(dims, int) else dims
    if x is None or not x.dtype.is_floating_point or not isinstance(axes, list | tuple):
        return ""
    if len(axes) != 1:
        return "softmax over several axes at once"
    other = match.bound.get("peak")
    peaks = [other] if isinstance(other, int) else other
    if peaks is not None and [positive(d, x.dim()) for d in peaks] != [positive(d, x.dim()) for d in axes]:
        return "the maximum is taken over other axes than the sum"
    return None


def _as_softmax(match: Match) -> Any:
    dims = match["dim"]
    axis = dims if isinstance(dims, int) else dims[0]
    return match.call(aten.softmax.int, match["x"], positive(axis, fake(match["x"]).dim()))


def _exponentials(peak_of: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def pattern(x: Any, dim: Any, peak: Any) -> Any:
        powers = aten.exp(x - peak_of(x, peak))
        return powers / aten.sum(powers, dim, True)

    return pattern


def _widened_exponentials(x: Any, dim: Any, peak: Any, wide: Any, narrow: Any, sums: Any) -> Any:
    """As torch.onnx writes it in half precision, for runtimes that reduce in single precision only."""
    most = aten._to_copy(aten.amax(aten._to_copy(x, dtype=wide), peak, True), dtype=narrow)
    powers = aten.exp(x - most)
    return powers / aten._to_copy(aten.sum(aten._to_copy(powers, dtype=wide), dim, True, dtype=sums), dtype=narrow)


def _widened_check(match: Match) -> str | None:
    x, wide, sums = tensor(match["x"]), match["wide"], match["sums"]
    wider = x is not None and match["narrow"] == x.dtype and torch.promote_types(wide, x.dtype) == wide
    return _softmax_check(match) if wider and sums in (None, wide) else ""


def _overflowing_softmax(x: Any, dim: Any) -> Any:
    powers = aten.exp(x)
    return powers / aten.sum(powers, dim, True)


_SOFTMAX = (
    Rule("softmax", _exponentials(lambda x, d: aten.amax(x, d, True)), _as_softmax, _softmax_check),
    Rule("softmax", _exponentials(lambda x, d: aten.max(x, d, True)[0]), _as_softmax, _softmax_check),
    Rule("softmax", _widened_exponentials, _as_softmax, _widened_check),
    Rule(
        "softmax",
        _overflowing_softmax,
        _as_softmax,
        lambda match: "without the maximum subtracted, large inputs give NaN here and numbers in softmax",
    ),
)


def _leaky_check(match: Match) -> str | None:
    slope = match["slope"]
    return None if isinstance(slope, int | float) and is_floating(match["x"]) else ""


def _leaky_maximum_check(match: Match) -> str | None:
    slope = match["slope"]
    if _leaky_check(match) is not None:
        return ""
    return None if 0 <= slope <= 1 else "the maximum of x and slope * x is a leaky relu for slopes in [0, 1] only"


def _as_leaky(x: Any, slope: Any) -> Any:
    return aten.leaky_relu.default(x, slope)


def _hard_gates() -> tuple[Callable[[Any], Any], ...]:
    return (
        lambda x: aten.clamp(x + 3, 0, 6) / 6,
        lambda x: aten.clamp(x + 3, 0, 6) * (1 / 6),
        lambda x: aten.clamp(x * (1 / 6) + 0.5, 0, 1),
        lambda x: aten.clamp(x / 6 + 0.5, 0, 1),
    )


RULES: tuple[AnyRule, ...] = (
    *_family("sigmoid", lambda x: aten.sigmoid.default(x), lambda x: aten.reciprocal(aten.exp(aten.neg(x)) + 1)),
    *_family(
        "silu",
        lambda x: aten.silu.default(x),
        lambda x: x * aten.sigmoid(x),
        lambda x: x / (aten.exp(aten.neg(x)) + 1),
    ),
    *(rule for gate in _erf_gates() for rule in _family("gelu", lambda x: aten.gelu.default(x), *_half_products(gate))),
    *(
        rule
        for gate in _tanh_gates()
        for rule in _family(
            "gelu, tanh form", lambda x: aten.gelu.default(x, approximate="tanh"), *_half_products(gate)
        )
    ),
    *_family("hard sigmoid", lambda x: aten.hardsigmoid.default(x), *_hard_gates()),
    *_family(
        "hard swish",
        lambda x: aten.hardswish.default(x),
        lambda x: x * aten.hardsigmoid(x),
        lambda x: x * aten.clamp(x + 3, 0, 6) / 6,
        lambda x: x * aten.clamp(x + 3, 0, 6) * (1 / 6),
        lambda x: (x / 6) * aten.clamp(x + 3, 0, 6),
        lambda x: (x * (1 / 6)) * aten.clamp(x + 3, 0, 6),
    ),
    *_family("mish", lambda x: aten.mish.default(x), lambda x: x * aten.tanh(aten.softplus(x))),
    Rule("leaky relu", lambda x, slope: aten.where(aten.gt(x, 0), x, x * slope), _as_leaky, _leaky_check),
    Rule("leaky relu", lambda x, slope: aten.where(aten.ge(x, 0), x, x * slope), _as_leaky, _leaky_check),
    Rule("leaky relu", lambda x, slope: aten.maximum(x, x * slope), _as_leaky, _leaky_maximum_check),
    *_SOFTMAX,
)
