"""What is wrong with data, model or target gives an error or a reason that says so, and the model stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from torch import nn

import tersor
from tersor.cli import main
from tersor.context import Context
from tersor.errors import InputError
from tersor.export import save_onnx
from tersor.passes.quantize import Quantize
from tersor.passes.quantize_dynamic import QuantizeDynamic
from tersor.refresh import refresh
from tersor.rewrite_values import key
from tests.passes.harness import captured

BATCH = ({0: torch.export.Dim("batch", min=1, max=64)},)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)).eval()


X = torch.rand(8, 64, generator=torch.Generator().manual_seed(0))


def optimized(model: Any, calibration: Any, passes: str = "quantize", **options: Any) -> Any:
    settings: dict[str, Any] = {"backend": "eager", "budget": 0.2, "recover": "none", "seconds": 0.0, **options}
    return tersor.optimize(
        model, (X,), dynamic=BATCH, passes=passes, calibration=calibration, progress=False, **settings
    )


def not_finite() -> torch.Tensor:
    value = X.clone()
    value[3, 5] = float("nan")
    return value


@pytest.mark.parametrize(("bad", "told"), [(X[:, :32], "size 32 on axis 1, wanted 64"), (X.double(), "torch.float64")])
def test_calibration_that_does_not_fit_is_an_error(model: nn.Module, bad: torch.Tensor, told: str) -> None:
    with pytest.raises(InputError, match=f"calibration.*{told}"):
        optimized(model, [(X,), (bad,)])


@pytest.mark.parametrize(
    ("bad", "told"), [(not_finite(), "1 values of input_1 NaN or infinite"), (X[:0], "show no value of input_1")]
)
def test_calibration_without_usable_values_drops_the_pass(model: nn.Module, bad: torch.Tensor, told: str) -> None:
    fast = optimized(model, [(bad,)])
    (step,) = fast.report.steps
    assert step.status == "dropped" and told in step.reason
    assert torch.equal(fast(X), model(X))


def test_no_calibration_is_the_example_and_a_note(model: nn.Module) -> None:
    fast = optimized(model, ())
    assert fast.report.steps[0].status == "kept"
    assert any("judged on the example inputs alone" in note for note in fast.report.notes)


def test_constant_calibration_is_judged_by_what_it_leaves(model: nn.Module) -> None:
    zeros, ramp = torch.zeros(8, 64), [(X,), (X,), (X,), (X + 1,)]
    fast = optimized(model, [(zeros,), (zeros,), (zeros,), ramp[3]])
    (step,) = fast.report.steps
    assert step.status == "dropped" and "agreement falls" in step.reason
    assert torch.equal(fast(X), model(X))


def test_a_budget_of_nothing_says_what_would_be_lost(model: nn.Module) -> None:
    (step,) = optimized(model, [(X,)], budget=0.0).report.steps
    assert step.status == "dropped" and "the budget is 0.00%" in step.reason


def test_a_target_without_the_kernels_is_a_reason(model: nn.Module) -> None:
    fast = optimized(model, [(X,)], "quantize{backend=openvino}", target="cuda")
    (step,) = fast.report.steps
    assert step.status == "unchanged"
    assert {site.detail for site in step.skipped} == {"the integer kernels asked for run on cpu only"}


@pytest.mark.parametrize("text", ["quantize{weights=int5}", "quantize-dynamic{weights=fp9}"])
def test_unknown_formats_from_the_command_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["optimize", "zoo:digits-cnn", "-o", str(tmp_path / "out.onnx"), "--passes", text])
    told = capsys.readouterr().err
    assert code == 2 and "unknown integer format" in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_calibration_of_the_wrong_shape_from_the_command_line(
    model: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_onnx(captured(model, X), tmp_path / "model.onnx")
    np.savez(tmp_path / "bad.npz", input_1=np.zeros((8, 32), np.float32))
    asked = ["--passes", "quantize", "--calibration", str(tmp_path / "bad.npz"), "--backend", "onnxruntime"]
    code = main(["optimize", str(path), "-o", str(tmp_path / "out.onnx"), "--seconds", "0", "-q", *asked])
    assert code == 5 and "wanted 64" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


def test_a_weight_that_two_layers_read_and_one_that_is_read_as_numbers_too() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(40, 32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = nn.functional.linear(x, self.table).relu()
            return nn.functional.linear(h @ self.table, self.table)

    torch.manual_seed(0)
    program = captured(Tied(), torch.randn(64, 32))
    made = program.clone()
    Quantize(anyway=True, noise=1.0)(made, Context())
    refresh(made)
    assert sum(key(node) == "linear" for node in made.nodes) == 2
    (got,), (wanted,) = made.run(program.inputs), program.run(program.inputs)
    assert float((got - wanted).norm() / wanted.norm()) < 0.05
    assert any(value.dtype == torch.float32 and value.shape == (40, 32) for value in made.weights.values())


class _Reader:
    """Calibration data as ONNX Runtime reads it."""

    def __init__(self, name: str) -> None:
        self.feeds = iter([{name: np.random.default_rng(0).random((4, 3, 12, 12), np.float32)}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "form", [QuantFormat.QDQ, pytest.param(QuantFormat.QOperator, marks=pytest.mark.slow)], ids=["QDQ", "QOperator"]
)
def test_a_file_that_is_quantized_already_is_kept(form: QuantFormat, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16 * 64, 10))
    path, made = save_onnx(captured(net, torch.rand(4, 3, 12, 12)), tmp_path / "net.onnx"), tmp_path / "int8.onnx"
    name = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()[0].name
    quantize_static(str(path), str(made), _Reader(name), form, activation_type=QuantType.QUInt8)
    fast = tersor.optimize(
        str(made), passes="quantize{anyway=true}", backend="onnxruntime", seconds=0.0, budget=1.0, progress=False
    )
    assert [(step.status, len(step.sites)) for step in fast.report.steps] == [("unchanged", 0)]
    reasons = [site.detail for site in fast.report.steps[0].skipped]
    assert len(reasons) == 3 and all("quantized already" in reason for reason in reasons)
    x = torch.rand(4, 3, 12, 12)
    session = onnxruntime.InferenceSession(str(made), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {name: x.numpy()})
    (got,) = fast(x) if isinstance(fast(x), tuple) else (fast(x),)
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-5)


def test_layers_that_are_too_small_are_told() -> None:
    program, context = captured(nn.Linear(4, 3), torch.rand(2, 4)), Context()
    for item in (Quantize(), QuantizeDynamic()):
        item(program, context)
    assert not context.taken
    assert ["too small" in site.detail for site in context.skipped] == [True, True]
