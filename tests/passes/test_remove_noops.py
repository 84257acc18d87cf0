"""Operators that change nothing go; those that change shape, dtype or an output's identity stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.passes.harness import Compute, apply, assert_equal, captured, operators, reasons

NOTHING: dict[str, Any] = {
    "plus zero": lambda x, w: x + 0,
    "zero plus": lambda x, w: w[0] * 0 + x + torch.zeros(1),
    "minus zero": lambda x, w: x - 0.0,
    "times one": lambda x, w: 1 * x * torch.ones(()),
    "divided by one": lambda x, w: x / 1,
    "power of one": lambda x, w: x**1,
    "same view": lambda x, w: x.view(x.shape),
    "same permute": lambda x, w: x.permute(0, 1, 2),
    "transposed twice": lambda x, w: x.transpose(1, 2).transpose(1, 2),
    "same expand": lambda x, w: x.expand(x.shape),
    "dropout": lambda x, w: F.dropout(x, 0.3, False),
    "no dropout": lambda x, w: F.dropout(x, 0.0, True),
    "same dtype": lambda x, w: x.to(torch.float32, copy=True),
    "whole slice": lambda x, w: x[:, :],
    "cat of one": lambda x, w: torch.cat([x], 2),
    "no pad": lambda x, w: F.pad(x, (0, 0)),
    "copies": lambda x, w: x.contiguous().clone().detach(),
    "negated twice": lambda x, w: x.neg().neg(),
    "no roll": lambda x, w: x.roll(0, 1),
    "repeat": lambda x, w: x.repeat(1, 1, 1),
    "written whole": lambda x, w: torch.slice_scatter(torch.zeros_like(x), x, 1, 0, 9),
}


def _x() -> Tensor:
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_remains(name: str) -> None:
    model, x = Compute(lambda x, w: NOTHING[name](x.exp(), w).sin(), w=torch.ones(2)), _x()
    program = captured(model, x)
    apply(program, "dead-code,fold-constants,remove-noops")
    assert operators(program) == {"exp": 1, "sin": 1}
    assert_equal(program, model, x, tolerance=0)


def test_repeated_operators() -> None:
    model, x = Compute(lambda x: x.relu().relu().clamp(0, 1).clamp(0, 1).abs().abs()), _x()
    program = captured(model, x)
    apply(program, "remove-noops")
    assert operators(program) == {"relu": 1, "clamp": 1, "abs": 1}
    assert_equal(program, model, x, tolerance=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + torch.zeros(5, 1, 1, 1),
        lambda x: x.half() * torch.ones(1),
        lambda x: x.long() / 1,
        lambda x: (x > 0) + 0,
        lambda x: x.permute(0, 2, 1).permute(1, 0, 2),
        lambda x: x.clamp(1, 0).clamp(1, 0),
        lambda x: x.relu().clamp(-1, 1).relu(),
        lambda x: x.sum(1, keepdim=True).sum(1),
        lambda x: F.dropout(x, 0.0) + x[:, :2].mean(1, keepdim=True),
        lambda x: x.to(torch.float64),
        lambda x: torch.slice_scatter(x, 2 * x[:, :2], 1, 1, 3),
    ],
    ids=[
        "broadcast",
        "promotion",
        "integer",
        "bool",
        "permutes",
        "crossed",
        "apart",
        "dropped axis",
        "mean",
        "cast",
        "part",
    ],
)
def test_something_remains(function: Any) -> None:
    model, x = Compute(function), _x()
    program = captured(model, x)
    apply(program, "fold-constants,remove-noops")
    assert operators(program)
    assert_equal(program, model, x)


def test_double_reciprocal_is_refused() -> None:
    program = captured(Compute(lambda x: x.reciprocal().reciprocal()), _x())
    assert "rounds twice" in reasons(apply(program, "remove-noops"))
    assert operators(program) == {"reciprocal": 2}
