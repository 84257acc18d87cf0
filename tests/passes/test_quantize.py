"""The quantize pass: integer kernels in ONNX Runtime, accuracy of trained models, and what it declines."""

from __future__ import annotations

import collections
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import tersor
from tersor.capture import load
from tersor.context import Context
from tersor.errors import InputError, UsageError
from tersor.export import save_onnx
from tersor.passes.quantize import Quantize
from tersor.program import Program
from tersor.refresh import refresh
from tersor.spec import parse, render
from tests.factor.zoo import distance, trained
from tests.passes.harness import captured


def kernels(program: Program, folder: Path) -> collections.Counter[str]:
    """What ONNX Runtime makes of a program before it fixes layouts."""
    path, made = save_onnx(program, folder / "model.onnx"), folder / "optimized.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath, options.log_severity_level = str(made), 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(made).graph.node)


@pytest.mark.parametrize(
    ("name", "loss", "fused"),
    [("zoo:digits-cnn", 0.005, {"QLinearConv": 10, "QGemm": 1}), ("zoo:digits-mobile", 0.01, {"QLinearConv": 27})],
)
def test_trained_convolutional_models(name: str, loss: float, fused: dict[str, int], tmp_path: Path) -> None:
    model = trained(name)
    made, context = model.after("quantize{anyway=true}")
    assert context.taken
    assert model.accuracy(made) >= model.accuracy(model.program) - loss
    found = kernels(made, tmp_path)
    assert {key: found[key] for key in fused} == fused


def test_a_trained_transformer(tmp_path: Path) -> None:
    model = trained("zoo:digits-vit")
    made, _ = model.after("quantize{noise=1}")
    assert model.accuracy(made) >= model.accuracy(model.program) - 0.01
    assert kernels(made, tmp_path)["MatMulIntegerToFloat"] >= 12


def test_linear_layers_of_fixed_sizes_run_on_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64, bias=False)).eval()
    x = torch.randn(1, 128, 64)
    program = load(model, (x,))
    Quantize(anyway=True)(program, Context(calibration=((x,),)))
    refresh(program)
    found = kernels(program, tmp_path)
    assert found["MatMulIntegerToFloat"] == 2 and not found["DequantizeLinear"]
    assert distance(program, load(model, (x,)), (x,)) < 0.03


def test_layers_that_add_most_noise_stay_in_floating_point() -> None:
    model = trained("zoo:digits-vit")
    made, context = model.after("quantize{noise=0.00001}")
    _, everything = model.after("quantize{noise=1}")
    assert 0 < len(context.taken) < len(everything.taken)
    stay = [site for site in context.skipped if "stays in floating point" in site.detail]
    assert stay and all("of the outputs' energy by itself" in site.detail for site in stay)
    (got,), (wanted,) = made.run(model.calibration[0]), model.program.run(model.calibration[0])
    assert float((got - wanted).square().sum() / wanted.square().sum()) < 0.00003


def test_what_is_quantized_already_is_kept() -> None:
    model = trained("zoo:digits-cnn")
    once, _ = model.after("quantize{anyway=true}")
    context = Context(calibration=model.calibration)
    again = once.clone()
    Quantize(anyway=True)(again, context)
    assert not context.taken
    assert {site.detail for site in context.skipped} == {"it is quantized already"}


def test_through_the_pipeline_and_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    front, back = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3)
    model = nn.Sequential(front, nn.ReLU(), back, nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    data = [(torch.rand(4, 3, 10, 10),) for _ in range(4)]
    fast = tersor.optimize(
        model, data[0], passes="canonicalize,quantize{anyway=true}", calibration=data, budget=0.1, recover="none",
        backend="onnxruntime", seconds=0.0, progress=False,
    )  # fmt: skip
    step = fast.report.steps[-1]
    assert (step.status, len(step.sites)) == ("kept", 3)
    session = onnxruntime.InferenceSession(fast.to_onnx(tmp_path / "q.onnx"), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: data[0][0].numpy()})
    torch.testing.assert_close(torch.from_numpy(got), fast(*data[0]))
    wanted = model(*data[0]).detach()
    assert float((torch.from_numpy(got) - wanted).norm() / wanted.norm()) < 0.05


def test_calibration_that_is_not_finite_is_refused() -> None:
    program = captured(nn.Linear(4, 4).eval(), torch.rand(2, 4))
    bad = torch.rand(2, 4)
    bad[0, 0] = float("nan")
    with pytest.raises(InputError, match="1 values of input_1 NaN or infinite"):
        Quantize(anyway=True)(program, Context(calibration=((bad,),)))


def test_constant_calibration_is_quantized_without_a_fault() -> None:
    program = captured(nn.Linear(4, 4).eval(), torch.rand(2, 4))
    Quantize(anyway=True)(program, Context(calibration=((torch.zeros(2, 4),),)))
    refresh(program)
    assert bool(program.run((torch.zeros(2, 4),))[0].isfinite().all())


@pytest.mark.parametrize(
    "text", ["quantize{weights=int9}", "quantize{ranges=mqe}", "quantize{backend=onnxruntme}", "quantize{noise=2}",
             "quantize{activations=uint}", "quantize{rounding=up}"],
)  # fmt: skip
def test_options_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_weights_have_seven_bits_where_eight_would_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    program = captured(nn.Linear(32, 16), torch.rand(8, 32))

    def levels(item: Quantize) -> tuple[int, Context]:
        made, context = program.clone(), Context()
        item(made, context)
        (stored,) = (value for value in made.weights.values() if value.dtype == torch.int8)
        return int(stored.abs().max()), context

    monkeypatch.setattr("tersor.passes.quantize.saturates", lambda target: "this CPU has no VNNI")
    most, context = levels(Quantize(anyway=True))
    assert 60 <= most <= 64
    assert context.precision is not None
    assert (context.precision.weights, context.precision.reason) == ("int7", "this CPU has no VNNI")
    assert "int7 weights (this CPU has no VNNI)" in context.taken[0].detail
    assert levels(Quantize(weights="int8", anyway=True))[0] >= 127
    monkeypatch.setattr("tersor.passes.quantize.saturates", lambda target: "")
    assert levels(Quantize(anyway=True))[0] >= 127


def test_little_is_converted_between_integer_layers(tmp_path: Path) -> None:
    made, context = trained("zoo:digits-cnn").after("quantize")
    found = kernels(made, tmp_path)
    assert found["QLinearConv"] == 10 and found["QuantizeLinear"] == 1
    assert found["DequantizeLinear"] <= 2, "the last addition is read in floating point"
    assert "too small" in next(site.detail for site in context.skipped if site.node.startswith("linear"))


def test_it_prints_back() -> None:
    assert render(parse("quantize{ranges=entropy;noise=0.1}")) == "quantize{ranges=entropy;noise=0.1}"


@pytest.mark.parametrize("rounding", ["gptq", "adaround"])
def test_roundings_that_see_the_data_do_better_at_few_bits(rounding: str) -> None:
    model = trained("zoo:digits-cnn")
    inputs, errors = model.calibration[0], {}
    for name in ("nearest", rounding):
        made, _ = model.after(f"quantize{{weights=int4;rounding={name};noise=1;anyway=true}}")
        errors[name] = distance(made, model.program, inputs)
    assert errors[rounding] < 0.7 * errors["nearest"]


def test_the_mean_output_stays_where_weights_are_coarse() -> None:
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3)),
        torch.rand(8, 4, 12, 12) + 1,
    )
    program = captured(model, x)
    made = program.clone()
    Quantize(weights="int4", noise=1.0)(made, Context(calibration=((x,),)))
    refresh(made)
    gap = (made.run((x,))[0] - program.run((x,))[0]).mean((0, 2, 3))
    assert float(gap.abs().max()) < 0.02 * float(program.run((x,))[0].std())
