"""Tucker-2 of convolutions: accurate on trained models, cheaper as stated, exportable."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tersor.context import Context
from tersor.errors import UsageError
from tersor.factor.tucker import Tucker as Factors
from tersor.passes.tucker import Tucker
from tersor.refresh import refresh
from tersor.spec import parse
from tests.factor.zoo import assert_cheaper, assert_exports, details, distance, seeded, trained
from tests.passes.harness import captured, operators, reasons


@pytest.mark.parametrize(
    ("spec", "kept", "loss"),
    [("tucker", 0.52, 0.01), ("tucker{energy=0.97}", 0.62, 0.01), ("tucker{ratio=0.4}", 0.42, 0.03)],
)
def test_a_trained_model_stays_accurate(spec: str, kept: float, loss: float) -> None:
    model = trained("zoo:digits-cnn")
    made, context = model.after(spec)
    assert_cheaper(model, made, kept, loss)
    assert context.taken


def test_data_beat_the_weights_alone() -> None:
    model = trained("zoo:digits-cnn")
    aware, blind = model.after("tucker{ratio=0.4}")[0], model.after("tucker{ratio=0.4}", Context())[0]
    inputs = model.calibration[0]
    assert distance(aware, model.program, inputs) < distance(blind, model.program, inputs)
    assert model.accuracy(aware) > model.accuracy(blind)


def test_nearly_the_original_and_exports(tmp_path: Path) -> None:
    model = trained("zoo:digits-cnn")
    made, _ = model.after("tucker{energy=0.995}")
    assert 0 < distance(made, model.program, model.calibration[0]) < 0.2
    assert_exports(made, model.calibration[0], tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("ranks", "layers"), [((8, 16), 3), ((8, 32), 2), ((48, 16), 2)], ids=["both", "outputs only", "inputs only"]
)
@pytest.mark.parametrize("data", [True, False])
def test_a_planted_core_is_found_and_a_full_side_takes_no_layer(
    ranks: tuple[int, int], layers: int, data: bool
) -> None:
    outer, inner = ranks
    weight = Factors(seeded(48, outer), seeded(outer, inner, 3, 3, seed=1) / 9, seeded(inner, 32, seed=2) / 5).weight
    model = nn.Sequential(nn.Conv2d(32, 48, 3, padding=1), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(weight)  # type: ignore[operator]
    x = seeded(2, 32, 16, 16, seed=3)
    program, context = captured(model, x), Context(calibration=((x,),) if data else ())
    Tucker(energy=0.9999)(program, context)
    refresh(program)
    assert f"core of {outer} x {inner} channels, was 48 x 32" in details(context)
    assert operators(program)["conv2d"] == layers
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x), rtol=1e-2, atol=3e-2)


def test_small_and_pointwise_convolutions_stay() -> None:
    model, x = (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 64, 1), nn.Conv2d(64, 64, 3, groups=64)),
        seeded(2, 2, 8, 8),
    )
    program, context = captured(model, x), Context(calibration=((x,),))
    Tucker()(program, context)
    assert not context.taken
    assert "no ranks make three layers cost less" in reasons(context) and "64 groups" in reasons(context)


def test_convolutions_in_one_dimension(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.ReLU(), nn.Conv1d(64, 64, 5, padding=2), nn.ReLU()), seeded(2, 64, 40)
    program, context = captured(model, x), Context(calibration=((x,),))
    Tucker()(program, context)
    refresh(program)
    assert context.taken
    assert_exports(program, (seeded(3, 64, 40, seed=1),), tmp_path / "model.onnx")


@pytest.mark.parametrize("options", ["ratio=0", "energy=1.5", "multiple=0", "margin=0"])
def test_bad_options(options: str) -> None:
    with pytest.raises(UsageError, match="wanted"):
        parse(f"tucker{{{options}}}")
