"""The CP pass: accuracy of a trained model, one and two dimensions, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tersor.context import Context
from tersor.errors import UsageError
from tersor.passes.cp import Cp
from tersor.refresh import refresh
from tersor.spec import parse
from tests.factor.zoo import assert_cheaper, assert_exports, seeded, trained
from tests.passes.harness import captured, operators, reasons


def test_a_trained_model_stays_accurate() -> None:
    model = trained("zoo:digits-cnn")
    made, context = model.after("cp{ratio=0.6}")
    assert_cheaper(model, made, 0.62, 0.02)
    assert context.taken


def test_a_planted_chain_is_found(tmp_path: Path) -> None:
    front, middle = nn.Conv2d(64, 24, 1, bias=False), nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False)
    torch.manual_seed(0)
    back = nn.Conv2d(24, 64, 1, bias=False)
    weight = torch.einsum("or,rk,ri->oik", back.weight[..., 0, 0], middle.weight.flatten(1), front.weight[..., 0, 0])
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(weight.reshape(64, 64, 3, 3) * 20)  # type: ignore[operator]
    x = seeded(2, 64, 12, 12)
    program = captured(model, x)
    Cp(ratio=0.2, sweeps=100)(program, Context(calibration=((x,),)))
    refresh(program)
    assert operators(program)["conv2d"] == 3
    with torch.no_grad():
        wanted = model(x)
        assert float((program(x) - wanted).norm() / wanted.norm()) < 0.05
    assert_exports(program, (seeded(3, 64, 12, 12, seed=1),), tmp_path / "model.onnx")


def test_convolutions_in_one_dimension() -> None:
    model, x = nn.Sequential(nn.ReLU(), nn.Conv1d(64, 64, 9, padding=4), nn.ReLU()), seeded(2, 64, 40)
    program, context = captured(model, x), Context(calibration=((x,),))
    Cp()(program, context)
    refresh(program)
    assert context.taken and operators(program)["conv1d"] == 3


def test_small_and_grouped_convolutions_stay() -> None:
    model, x = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=4)), seeded(2, 2, 8, 8)
    program, context = captured(model, x), Context(calibration=((x,),))
    Cp()(program, context)
    assert not context.taken
    assert "no rank that pays" in reasons(context) and "4 groups" in reasons(context)


@pytest.mark.parametrize("options", ["ratio=0", "multiple=0", "margin=2", "sweeps=0"])
def test_bad_options(options: str) -> None:
    with pytest.raises(UsageError, match="wanted"):
        parse(f"cp{{{options}}}")
