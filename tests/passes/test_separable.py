"""Depthwise filters and a pointwise mix for dense convolutions: accurate, cheaper as stated, exportable."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tersor.context import Context
from tersor.errors import UsageError
from tersor.passes.separable import Separable
from tersor.refresh import refresh
from tersor.spec import parse
from tests.factor.zoo import assert_cheaper, assert_exports, distance, seeded, trained
from tests.passes.harness import captured, operators, reasons


@pytest.mark.parametrize(
    ("spec", "kept", "loss"),
    [("separable", 0.51, 0.01), ("separable{ratio=0.4}", 0.41, 0.02), ("separable{terms=3}", 0.45, 0.02)],
)
def test_a_trained_model_stays_accurate(spec: str, kept: float, loss: float) -> None:
    model = trained("zoo:digits-cnn")
    made, context = model.after(spec)
    assert_cheaper(model, made, kept, loss)
    assert context.taken


def test_the_fit_to_the_data_is_worth_it() -> None:
    model = trained("zoo:digits-cnn")
    fitted, blind = model.after("separable{ratio=0.4}")[0], model.after("separable{ratio=0.4}", Context())[0]
    inputs = model.calibration[0]
    assert distance(fitted, model.program, inputs) < 0.5 * distance(blind, model.program, inputs)


def test_exports(tmp_path: Path) -> None:
    model = trained("zoo:digits-cnn")
    made, context = model.after("separable")
    assert operators(made)["conv2d"] == operators(model.program)["conv2d"] + len(context.taken)
    assert_exports(made, model.calibration[0], tmp_path / "model.onnx")


@pytest.mark.parametrize("data", [True, False])
def test_a_separable_layer_is_recognised(data: bool) -> None:
    model = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding="valid"), nn.ReLU())
    with torch.no_grad():
        weight = torch.einsum("oi,ihw->oihw", seeded(32, 16), seeded(16, 3, 3, seed=1)) / 10
        model[0].weight.copy_(weight)  # type: ignore[operator]
    x = seeded(8, 16, 16, 16, seed=3)
    program, context = captured(model, x), Context(calibration=((x,),) if data else ())
    Separable(terms=1)(program, context)
    refresh(program)
    assert operators(program)["conv2d"] == 2
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x), rtol=1e-3, atol=1e-3)


def test_what_does_not_pay_is_left_with_a_reason() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 64, 1), nn.Conv2d(64, 64, 2)), seeded(2, 3, 8, 8)
    program, context = captured(model, x), Context(calibration=((x,),))
    Separable(terms=3)(program, context)
    assert not context.taken
    assert "no number of filters" in reasons(context) and "3 filters a channel do not pay" in reasons(context)


@pytest.mark.parametrize("options", ["ratio=0", "terms=-1", "margin=0", "terms=1.5"])
def test_bad_options(options: str) -> None:
    with pytest.raises(UsageError, match="wanted"):
        parse(f"separable{{{options}}}")
