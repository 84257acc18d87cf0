"""Normalisations spelled out in arithmetic become one node."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.harness import Compute, apply, assert_equal, captured, operators, reasons

EPS = 1e-5


def _pow(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + EPS)


def _rsqrt(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(dim=(-1,), keepdim=True) + EPS)


def _var(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + EPS).sqrt()


def _half_power(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + EPS) ** -0.5


def _sums(x: Tensor) -> Tensor:
    centred = x - x.sum(-1, keepdim=True) / 8
    return centred / torch.sqrt(centred.pow(2).sum(-1, keepdim=True) / 8 + EPS)


def _exported(x: Tensor) -> Tensor:
    """As an ONNX exporter spells it: constants are tensors."""
    centred = torch.sub(x, torch.mean(x, [-1], keepdim=True))
    variance = torch.mean(torch.pow(centred, torch.tensor(2.0)), [-1], keepdim=True)
    return torch.div(centred, torch.sqrt(torch.add(variance, torch.tensor(EPS))))


CORES = {f.__name__.strip("_"): f for f in (_pow, _rsqrt, _var, _half_power, _sums, _exported)}


def _x(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 2 + 1


@pytest.mark.parametrize(
    ("core", "affine"),
    [*((core, "both") for core in CORES), *(("pow", a) for a in ("none", "scale", "shift", "swapped"))],
)
def test_layer_norm(core: str, affine: str) -> None:
    function: Any = {
        "none": lambda x, w, b: CORES[core](x),
        "scale": lambda x, w, b: CORES[core](x) * w,
        "both": lambda x, w, b: CORES[core](x) * w + b,
        "shift": lambda x, w, b: CORES[core](x) + b,
        "swapped": lambda x, w, b: b + w * CORES[core](x),
    }[affine]
    model, x = Compute(function, w=_x(8), b=_x(1, 8)), _x(2, 5, 8)
    program = captured(model, x)
    apply(program, "canonicalize")
    assert operators(program) == {"layer_norm": 1}
    assert_equal(program, model, x)


def test_layer_norm_over_two_axes() -> None:
    def function(x: Tensor) -> Tensor:
        centred = x - x.mean((-2, -1), keepdim=True)
        return centred / torch.sqrt(centred.pow(2).mean((-2, -1), keepdim=True) + EPS)

    model, x = Compute(function), _x(2, 3, 4, 5)
    program = captured(model, x)
    apply(program, "canonicalize")
    assert operators(program) == {"layer_norm": 1}
    torch.testing.assert_close(program(x), F.layer_norm(x, [4, 5]))


def test_channels_first_layer_norm_with_its_affine() -> None:
    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return w[:, None, None] * (centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)) + b[:, None, None]

    model, x = Compute(function, w=_x(6), b=_x(6)), _x(2, 6, 4, 4)
    program = captured(model, x)
    apply(program, "fold-constants,canonicalize,absorb-affine")
    assert operators(program) == {"permute": 2, "layer_norm": 1}
    assert_equal(program, model, x)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("core", ["rsqrt", "sqrt"])
def test_rms_norm(core: str, scaled: bool) -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        square = x.pow(2).mean(-1, keepdim=True) + 1e-6
        norm = x * torch.rsqrt(square) if core == "rsqrt" else x / torch.sqrt(square)
        return w * norm if scaled else norm

    model, x = Compute(function, w=_x(8)), _x(2, 5, 8)
    program = captured(model, x)
    apply(program, "canonicalize")
    assert operators(program) == {"rms_norm": 1}
    assert_equal(program, model, x)


def test_spelled_out_in_half_precision_is_kept() -> None:
    model, x = Compute(_pow), _x(2, 5, 8).half()
    program = captured(model, x)
    context = apply(program, "canonicalize")
    assert "rounds every step" in reasons(context)
    assert operators(program)["layer_norm"] == 0


def test_half_precision_with_casts_keeps_its_casts() -> None:
    model, x = Compute(lambda x: _pow(x.float()).half()), _x(2, 5, 8).half()
    program = captured(model, x)
    apply(program, "canonicalize")
    assert operators(program) == {"_to_copy": 2, "layer_norm": 1}
    assert_equal(program, model, x, tolerance=1e-3)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + EPS),
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + EPS).sqrt(),
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-2, unbiased=False, keepdim=True) + EPS).sqrt(),
        lambda x: (x - x.mean((1, 2), keepdim=True)) / (x.var((1, 2), unbiased=False, keepdim=True) + EPS).sqrt(),
    ],
    ids=["eps outside", "unbiased", "two axes", "axes not last"],
)
def test_almost_layer_norm_is_left_alone(function: Any) -> None:
    model, x = Compute(function), _x(2, 5, 8, 3)
    program = captured(model, x)
    apply(program, "canonicalize")
    assert operators(program)["layer_norm"] == 0
    assert_equal(program, model, x)


def test_normalised_size_that_is_dynamic() -> None:
    model, x = Compute(lambda x: _pow(x.transpose(0, 2))), _x(2, 5, 8)
    program = captured(model, x)
    assert "differs from call to call" in reasons(apply(program, "canonicalize"))
    assert_equal(program, model, x)


def test_scale_of_another_shape_stays_outside() -> None:
    model, x = Compute(lambda x, w: _pow(x) * w, w=_x(5, 1)), _x(2, 5, 8)
    program = captured(model, x)
    assert "one number per normalised element" in reasons(apply(program, "canonicalize"))
    assert operators(program) == {"layer_norm": 1, "mul": 1}
    assert_equal(program, model, x)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_has_one_spelling(affine: bool) -> None:
    model, x = nn.BatchNorm2d(4, affine=affine), _x(2, 4, 3, 3)
    model.running_mean, model.running_var = _x(4), _x(4).abs() + 0.5
    program = captured(model, x)
    apply(program, "canonicalize")
    assert operators(program) == {"batch_norm": 1}
    assert_equal(program, model, x)
