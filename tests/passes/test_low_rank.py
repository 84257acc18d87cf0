"""Two thin layers for one: exact at full rank, accurate on trained models, cheaper as stated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tersor.context import Context
from tersor.errors import UsageError
from tersor.passes.low_rank import LowRank
from tersor.refresh import refresh
from tersor.spec import parse, render
from tests.factor.zoo import assert_cheaper, assert_exports, details, distance, seeded, trained
from tests.passes.harness import captured, operators, reasons


@pytest.mark.parametrize(
    ("name", "spec", "kept", "loss"),
    [
        ("zoo:digits-vit", "low-rank{ratio=0.6}", 0.62, 0.01),
        ("zoo:digits-vit", "low-rank{ratio=0.4}", 0.44, 0.02),
        ("zoo:digits-cnn", "low-rank{ratio=0.6}", 0.61, 0.01),
        ("zoo:text-encoder", "low-rank{ratio=0.6}", 0.67, 0.01),
    ],
)
def test_trained_models_stay_accurate(name: str, spec: str, kept: float, loss: float) -> None:
    model = trained(name)
    made, context = model.after(spec)
    assert_cheaper(model, made, kept, loss)
    assert context.taken and context.skipped


def test_data_beat_the_weights_own_singular_vectors() -> None:
    model = trained("zoo:digits-vit")
    aware, _ = model.after("low-rank{ratio=0.4}")
    blind, _ = model.after("low-rank{ratio=0.4}", Context())
    assert abs(model.flops(aware) - model.flops(blind)) < 0.03
    inputs = model.calibration[0]
    assert distance(aware, model.program, inputs) < 0.5 * distance(blind, model.program, inputs)
    assert model.accuracy(aware) > model.accuracy(blind)


def test_high_energy_is_nearly_the_original_and_exports(tmp_path: Path) -> None:
    model = trained("zoo:digits-vit")
    made, _ = model.after("low-rank{energy=0.999}")
    assert 0 < distance(made, model.program, model.calibration[0]) < 0.1
    assert_exports(made, model.calibration[0], tmp_path / "model.onnx")


def test_convolutions_export(tmp_path: Path) -> None:
    model = trained("zoo:digits-cnn")
    made, context = model.after("low-rank")
    assert operators(made)["conv2d"] == operators(model.program)["conv2d"] + len(context.taken)
    assert_exports(made, model.calibration[0], tmp_path / "model.onnx")


def test_a_layer_of_low_rank_loses_nothing() -> None:
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64))
    with torch.no_grad():
        model[0].weight.copy_(seeded(96, 16) @ seeded(16, 64, seed=1))  # type: ignore[operator]
        model[2].weight.copy_(seeded(64, 8, seed=2) @ seeded(8, 96, seed=3))  # type: ignore[operator]
    x = seeded(4, 10, 64, seed=4)
    for context in (Context(), Context(calibration=((x,),))):
        program = captured(model, x)
        LowRank(energy=0.9999)(program, context)
        refresh(program)
        assert operators(program)["linear"] == 4
        assert "rank 16 of 64" in details(context) and "rank 8 of 64" in details(context)
        with torch.no_grad():
            torch.testing.assert_close(program(x), model(x), rtol=1e-3, atol=1e-2)


def test_what_does_not_pay_is_left_with_a_reason() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Conv2d(2, 2, 1)), seeded(2, 2, 8, 8)
    program, context = captured(model, x), Context(calibration=((x,),))
    LowRank()(program, context)
    assert not context.taken
    assert reasons(context).count("no rank makes two layers cost less") == 2


def test_without_kernels() -> None:
    model = trained("zoo:digits-cnn")
    made, context = model.after("low-rank{convolutions=false}")
    (site,) = context.taken
    layer = next(node for node in model.program.nodes if node.name == site.node)
    assert layer.args[1].meta["val"].shape == (48, 24, 1, 1)  # type: ignore[union-attr]
    assert operators(made)["conv2d"] == operators(model.program)["conv2d"] + 1


def test_a_limit_keeps_sites_whole() -> None:
    model = trained("zoo:digits-vit")
    context = Context(limit=lambda site: site.node == first, calibration=model.calibration)
    first = model.after("low-rank")[1].taken[0].node
    made, context = model.after("low-rank", context)
    assert [site.node for site in context.taken] == [first]
    assert sum(operators(made).values()) == sum(operators(model.program).values()) + 1


def test_deterministic() -> None:
    model = trained("zoo:digits-vit")
    first, second = (model.after("low-rank")[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.weights.values(), second.weights.values(), strict=True))


def test_half_precision_keeps_its_dtype() -> None:
    model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU()).bfloat16(), seeded(4, 64).bfloat16()
    program, context = captured(model, x), Context(calibration=((x,),))
    LowRank(ratio=0.5)(program, context)
    refresh(program)
    assert context.taken
    assert {value.dtype for value in program.weights.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "options", ["ratio=0", "ratio=1.5", "energy=-1", "multiple=0", "margin=2", "ratio=nan", "ratio=half"]
)
def test_bad_options(options: str) -> None:
    with pytest.raises(UsageError):
        parse(f"low-rank{{{options}}}")


def test_the_specification_prints_back() -> None:
    spec = "low-rank{ratio=0.5;energy=0.9}"
    assert render(parse(spec)) == spec
