"""Equalisation as a pass: eager PyTorch's outputs, less error in integers, and a reason wherever it stays away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tersor.context import Context
from tersor.errors import UsageError
from tersor.passes.equalize import Equalize
from tersor.passes.quantize import Quantize
from tersor.program import Program
from tersor.refresh import refresh
from tersor.spec import parse, render
from tests.factor.zoo import assert_exports, distance, trained
from tests.passes.harness import assert_equal, captured, reasons


class Chain(nn.Module):
    """Convolution, depthwise convolution, a residual sum, pooling, a linear layer; channels differ in size by 1000."""

    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor] = F.relu) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.act = act
        self.first, self.depth = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.inner, self.last = nn.Conv2d(16, 16, 1), nn.Linear(16 * 4, 5)
        up = torch.logspace(-1.5, 1.5, 16)
        down, last = 1 / up, up.repeat_interleave(4)
        with torch.no_grad():
            for layer, out, into in ((self.first, up, None), (self.depth, down, down), (self.inner, down, up)):
                layer.weight *= out.reshape(-1, 1, 1, 1)
                layer.bias = nn.Parameter(layer.bias * out) if layer.bias is not None else None
                if into is not None:
                    layer.weight *= into.reshape((-1, 1, 1, 1) if layer is self.depth else (1, -1, 1, 1))
            self.last.weight *= last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.act(self.depth(self.act(self.first(x))))
        inner = self.act(inner + self.inner(inner))
        return self.last(F.max_pool2d(inner, 4).flatten(1))


X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def equalized(program: Program, **options: object) -> tuple[Program, Context]:
    made, context = program.clone(), Context(calibration=((X,),))
    Equalize(**options)(made, context)  # type: ignore[arg-type]
    refresh(made)
    return made, context


def quantized(program: Program) -> Program:
    made = program.clone()
    Quantize(noise=1.0, ranges="min-max", backend="openvino")(made, Context(calibration=((X,),)))
    return refresh(made)


def test_outputs_stay_and_integers_lose_less() -> None:
    model = Chain().eval()
    program = captured(model, X)
    made, context = equalized(program)
    assert len(context.taken) == 2 and "of the predicted error goes; ranges of channels" in context.taken[0].detail
    assert_equal(made, model, X)
    before, after = (distance(quantized(item), program, (X,)) for item in (program, made))
    assert after < 0.3 * before
    _, context = equalized(made)
    assert not context.taken and "of the predicted error would go" in reasons(context)


def test_powers_of_two_leave_every_bit() -> None:
    program = captured(Chain(), X)
    made, context = equalized(program, powers_of_two=True)
    assert context.taken and torch.equal(made.run((X,))[0], program.run((X,))[0])


def test_an_exported_file_is_the_same(tmp_path: Path) -> None:
    made, _ = equalized(captured(Chain(), X))
    assert_exports(made, (X,), tmp_path / "equal.onnx")


@pytest.mark.parametrize(
    ("act", "reason"),
    [(F.relu6, "does not scale with it"), (F.gelu, "does not scale with it"), (lambda x: x + 1.0, "does not scale"),
     (lambda x: F.relu(x) * x.mean((2, 3), keepdim=True), "mul_")],
)  # fmt: skip
def test_what_does_not_scale_is_declined(act: Callable[[torch.Tensor], torch.Tensor], reason: str) -> None:
    _, context = equalized(captured(Chain(act), X))
    assert not context.taken and reason in reasons(context)


class Odd(nn.Module):
    """Two layers with something between or about them."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor], shared: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 8)
        self.second = self.first if shared else nn.Linear(8, 8)
        self.between = between
        with torch.no_grad():
            self.first.weight[:2] *= 100

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.between(self.first(x)))


@pytest.mark.parametrize(
    ("between", "shared", "reason"),
    [
        (lambda x: x.relu(), True, "is read by others too"),
        (lambda x: x.mean(-1, keepdim=True) + x, False, "the channels of"),
        (lambda x: x.transpose(-1, -2), False, "sums over something else"),
        (lambda x: x + torch.ones(8), False, "does not scale with it"),
    ],
)
def test_odd_graphs_are_declined(between: Callable[[torch.Tensor], torch.Tensor], shared: bool, reason: str) -> None:
    x = torch.randn(4, 8, 8)
    program, context = captured(Odd(between, shared), x), Context(calibration=((x,),))
    Equalize()(program, context)
    assert not context.taken and reason in reasons(context)


def test_concatenations_and_products_of_channels_and_places() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
            self.last = nn.Linear(16 * 64, 4)
            with torch.no_grad():
                self.left.weight[::3] *= 100

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.cat([self.left(x), self.right(x)], 1).relu().flatten(1))

    model = Joined().eval()
    made, context = equalized(captured(model, X))
    assert len(context.taken) == 1
    assert_equal(made, model, X)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zoo:digits-cnn", "zoo:digits-mobile"])
def test_trained_models_compute_the_same(name: str) -> None:
    model = trained(name)
    made, context = model.after("equalize{least=0}")
    assert context.taken and context.skipped
    assert distance(made, model.program, model.calibration[0]) < 1e-5
    joint, _ = model.after("equalize,smooth,quantize")
    assert model.accuracy(joint) >= model.accuracy(model.program) - 0.005


@pytest.mark.parametrize("text", ["equalize{limit=1}", "equalize{least=2}", "equalize{weights=int3}"])
def test_options_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_it_prints_back() -> None:
    assert render(parse("equalize{powers_of_two=True}")) == "equalize{powers_of_two=True}"
