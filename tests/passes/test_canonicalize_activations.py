"""Activation functions in many spellings become one node each."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.passes.harness import Compute, apply, assert_equal, captured, operators, reasons

ROOT = math.sqrt(2)
TANH = math.sqrt(2 / math.pi)

GELU = {
    "divided": lambda x: x * 0.5 * (1 + torch.erf(x / ROOT)),
    "multiplied": lambda x: x * 0.5 * (1.0 + torch.erf(x * (1 / ROOT))),
    "rounded constant": lambda x: x * 0.5 * (1.0 + torch.erf(x * 0.7071067)),
    "half last": lambda x: 0.5 * (x * (torch.erf(x / ROOT) + 1)),
    "half inside": lambda x: (torch.erf(x / ROOT) + 1) * 0.5 * x,
    "divided by two": lambda x: x * (1 + torch.erf(x / ROOT)) / 2,
    "tensor constants": lambda x: x * torch.tensor(0.5) * (torch.tensor(1.0) + torch.erf(x / torch.tensor(ROOT))),
    "library": F.gelu,
}
TANH_GELU = {
    "power": lambda x: 0.5 * x * (1 + torch.tanh(TANH * (x + 0.044715 * torch.pow(x, 3)))),
    "product": lambda x: 0.5 * x * (1 + torch.tanh(TANH * (x + 0.044715 * x * x * x))),
    "cube": lambda x: x * (0.5 * (torch.tanh((x + (x * x * x) * 0.044715) * 0.7978845608) + 1)),
    "fast": lambda x: 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
    "library": lambda x: F.gelu(x, approximate="tanh"),
}
OTHERS: dict[str, tuple[str, Any]] = {
    "silu": ("silu", lambda x: x * torch.sigmoid(x)),
    "silu swapped": ("silu", lambda x: torch.sigmoid(x) * x),
    "silu divided": ("silu", lambda x: x / (1 + torch.exp(-x))),
    "sigmoid": ("sigmoid", lambda x: 1 / (1 + torch.exp(-x))),
    "hard sigmoid": ("hardsigmoid", lambda x: F.relu6(x + 3) / 6),
    "hard sigmoid by clamp": ("hardsigmoid", lambda x: (x / 6 + 0.5).clamp(0, 1)),
    "hard sigmoid by bounds": ("hardsigmoid", lambda x: (x * (1 / 6) + 0.5).clamp(min=0).clamp(max=1)),
    "hard swish": ("hardswish", lambda x: x * F.relu6(x + 3) / 6),
    "hard swish of a gate": ("hardswish", lambda x: x * (F.hardtanh(x + 3, 0, 6) / 6)),
    "hard swish by clamp": ("hardswish", lambda x: (x + 3).clamp(0, 6) * x * (1 / 6)),
    "hard swish by hard sigmoid": ("hardswish", lambda x: F.hardsigmoid(x) * x),
    "mish": ("mish", lambda x: x * torch.tanh(F.softplus(x))),
    "leaky relu": ("leaky_relu", lambda x: torch.where(x > 0, x, 0.1 * x)),
    "leaky relu by maximum": ("leaky_relu", lambda x: torch.maximum(x, 0.1 * x)),
    "relu": ("relu", lambda x: x.clamp(min=0)),
    "relu by maximum": ("relu", lambda x: torch.maximum(x, torch.tensor(0.0))),
    "relu6": ("clamp", F.relu6),
    "softmax": ("softmax", lambda x: _softmax(x, x.amax(-1, keepdim=True))),
    "softmax by max": ("softmax", lambda x: _softmax(x, x.max(-1, keepdim=True)[0])),
}


def _softmax(x: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
    powers = torch.exp(x - peak)
    return powers / powers.sum(-1, keepdim=True)


def _values() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(2, 5, 8, generator=generator)


@pytest.mark.parametrize("name", GELU)
def test_gelu(name: str) -> None:
    model, x = Compute(GELU[name]), _values()
    program = captured(model, x)
    apply(program, "canonicalize")
    assert operators(program) == {"gelu": 1}
    assert_equal(program, model, x)


@pytest.mark.parametrize("name", TANH_GELU)
def test_tanh_gelu(name: str) -> None:
    model, x = Compute(TANH_GELU[name]), _values()
    program = captured(model, x)
    apply(program, "canonicalize")
    assert operators(program) == {"gelu": 1}
    assert next(n for n in program.nodes if n.op == "call_function").kwargs == {"approximate": "tanh"}
    assert_equal(program, model, x)


@pytest.mark.parametrize("name", OTHERS)
def test_others(name: str) -> None:
    operator, function = OTHERS[name]
    model, x = Compute(function), _values()
    program = captured(model, x)
    apply(program, "canonicalize")
    assert operators(program) == {operator: 1}
    assert_equal(program, model, x)
    model.function = function
    special = torch.tensor([[[0.0, -0.0, 40.0, -40.0, math.nan, 3.0, -3.0, 6.0]]]).expand(2, 5, 8)
    torch.testing.assert_close(program(special), model(special), equal_nan=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 0.5 * (1 + torch.erf(x / 1.42)),
        lambda x: x * 0.5 * (1 + torch.erf(x[..., :1] / ROOT)),
        lambda x: x * 0.5 * (1 - torch.erf(x / ROOT)),
        lambda x: x * 0.4 * (1 + torch.erf(x / ROOT)),
    ],
)
def test_almost_gelu_is_left_alone(function: Any) -> None:
    model, x = Compute(function), _values()
    program = captured(model, x)
    apply(program, "canonicalize")
    assert operators(program)["gelu"] == 0
    assert_equal(program, model, x)


def test_gelu_whose_inside_is_read_elsewhere() -> None:
    def function(x: torch.Tensor) -> Any:
        inside = torch.erf(x / ROOT)
        return x * 0.5 * (1 + inside), inside

    model, x = Compute(function), _values()
    program = captured(model, x)
    apply(program, "canonicalize")
    assert operators(program)["erf"] == 1
    assert operators(program)["gelu"] == 0


def test_softmax_that_can_overflow_is_kept() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        powers = torch.exp(x)
        return powers / powers.sum(-1, keepdim=True)

    program = captured(Compute(function), _values())
    context = apply(program, "canonicalize")
    assert "large inputs give NaN" in reasons(context)
    large = torch.full((2, 5, 8), 100.0)
    assert program(large).isnan().all()


def test_softmax_over_other_axes_than_its_maximum() -> None:
    model, x = Compute(lambda x: _softmax(x, x.amax(1, keepdim=True))), _values()
    program = captured(model, x)
    context = apply(program, "canonicalize")
    assert operators(program)["softmax"] == 0
    assert "other axes" in reasons(context)


def test_steep_maximum_is_no_leaky_relu() -> None:
    model, x = Compute(lambda x: torch.maximum(x, 1.5 * x)), _values()
    program = captured(model, x)
    assert "slopes in [0, 1]" in reasons(apply(program, "canonicalize"))
    assert_equal(program, model, x)


def test_clamp_bounds_that_cross() -> None:
    model, x = Compute(lambda x: x.clamp(min=2.0).clamp(max=1.0)), _values()
    program = captured(model, x)
    apply(program, "canonicalize")
    assert_equal(program, model, x)
