"""Constant factors and offsets join the layer beside them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.passes.harness import Compute, apply, assert_equal, captured, operators, reasons


def _x(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


WEIGHTS = {"w": _x(6, 4), "b": _x(6), "c": _x(6) + 3, "i": _x(4)}
IMAGE = {"w": _x(6, 4, 3, 3), "b": _x(6), "c": _x(6, 1, 1) + 3, "i": _x(4, 1, 1)}

LINEAR: dict[str, Any] = {
    "scale": lambda x, w, b, c, i: F.linear(x, w, b) * c,
    "number": lambda x, w, b, c, i: 2 * F.linear(x, w, b) / 3,
    "offset": lambda x, w, b, c, i: F.linear(x, w, b) + c,
    "offset without bias": lambda x, w, b, c, i: F.linear(x, w) - c,
    "quotient": lambda x, w, b, c, i: F.linear(x, w) / c,
    "subtracted from": lambda x, w, b, c, i: c - F.linear(x, w, b),
    "negated": lambda x, w, b, c, i: -F.linear(x, w, b),
    "chain": lambda x, w, b, c, i: (F.linear(x, w, b) * c + 1) * 0.5 - b,
    "ahead": lambda x, w, b, c, i: F.linear(x * i, w, b),
    "offset ahead": lambda x, w, b, c, i: F.linear(x + i, w, b),
    "number ahead": lambda x, w, b, c, i: F.linear((x - 0.5) / 0.25, w),
    "layer norm": lambda x, w, b, c, i: F.layer_norm(x, (4,), i, None) * i + i,
    "plain layer norm": lambda x, w, b, c, i: F.layer_norm(x, (4,)) * 3 + i,
}
CONVOLUTION: dict[str, Any] = {
    "scale": lambda x, w, b, c, i: F.conv2d(x, w, b, padding=1) * c,
    "offset": lambda x, w, b, c, i: F.conv2d(x, w, padding=1) + c,
    "scale ahead": lambda x, w, b, c, i: F.conv2d(x * i, w, b, padding=1),
    "offset ahead": lambda x, w, b, c, i: F.conv2d(x + i, w, b),
    "normalised image": lambda x, w, b, c, i: F.conv2d((x - i) / 0.3, w, b),
    "depthwise": lambda x, w, b, c, i: F.conv2d(x * i, w[:4, :1], groups=4) - i,
    "transposed": lambda x, w, b, c, i: F.conv_transpose2d(x * i, w.transpose(0, 1), b) * c,
    "behind a permute": lambda x, w, b, c, i: F.linear(x.permute(0, 2, 3, 1), w[:, :, 0, 0]).permute(0, 3, 1, 2) * c,
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear(name: str) -> None:
    model, x = Compute(LINEAR[name], **WEIGHTS), _x(2, 5, 4)
    program = captured(model, x)
    apply(program, "fold-constants,absorb-affine")
    assert operators(program) == {"layer_norm" if "norm" in name else "linear": 1}
    assert_equal(program, model, x)


@pytest.mark.parametrize("name", CONVOLUTION)
def test_convolution(name: str) -> None:
    model, x = Compute(CONVOLUTION[name], **IMAGE), _x(2, 4, 5, 5)
    program = captured(model, x)
    apply(program, "fold-constants,absorb-affine")
    assert not operators(program).keys() & {"mul", "add", "sub", "div"}
    assert_equal(program, model, x, tolerance=2e-5)


REFUSED: dict[str, tuple[Any, str]] = {
    "padding": (lambda x, w, b, c, i: F.conv2d(x + i, w, b, padding=1), "pads with zeros"),
    "transposed offset": (lambda x, w, b, c, i: F.conv_transpose2d(x + i, w.transpose(0, 1), b), "pads with zeros"),
    "per pixel": (
        lambda x, w, b, c, i: F.conv2d(x, w, b) * torch.arange(9.0).view(3, 3),
        "one number per output channel",
    ),
    "zero": (lambda x, w, b, c, i: F.conv2d(x, w, b) / (c * 0), "not finite"),
    "two readers": (lambda x, w, b, c, i: (lambda y: y * c + y.relu())(F.conv2d(x, w, b)), "is read by 2 nodes"),
    "tied": (lambda x, w, b, c, i: F.conv2d(x, w, b) * c + F.conv2d(x.relu(), w, b), "is read by"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, reason = REFUSED[name]
    model, x = Compute(function, **IMAGE), _x(2, 4, 5, 5)
    program = captured(model, x)
    assert reason in reasons(apply(program, "fold-constants,absorb-affine"))
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x), equal_nan=True, rtol=1e-5, atol=1e-5)


def test_constant_that_widens_the_result() -> None:
    model, x = Compute(lambda x, w, c: F.linear(x, w) * c, w=_x(1, 4), c=_x(6)), _x(2, 5, 4)
    program = captured(model, x)
    apply(program, "absorb-affine")
    assert operators(program) == {"linear": 1, "mul": 1}
    assert_equal(program, model, x)


def test_constant_of_another_dtype() -> None:
    model, x = Compute(lambda x, w, c: F.linear(x, w) * c, w=_x(6, 4), c=_x(6).double()), _x(2, 5, 4)
    program = captured(model, x)
    apply(program, "absorb-affine")
    assert operators(program) == {"linear": 1, "mul": 1}
    assert_equal(program, model, x)
