"""Activations quantized while the model runs: numbers against torch's own operators, and ONNX Runtime's kernels."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import tersor
from tersor.context import Context
from tersor.errors import UsageError
from tersor.export import save_onnx
from tersor.noise import rounding
from tersor.passes.quantize_dynamic import QuantizeDynamic
from tersor.program import Program
from tersor.refresh import refresh
from tersor.rewrite_values import key
from tersor.spec import parse, render
from tests.passes.harness import captured


class Block(nn.Module):
    """Three layers that read one tensor, and one behind them; the range of the input differs from row to row."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(32, 48) for _ in range(3))
        self.out = nn.Linear(48, 32, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.query(x).tanh() * self.key(x).sigmoid() + self.value(x))


def sample(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 4, shape[0])[:, None]


def quantized(x: torch.Tensor, per: str = "tensor") -> tuple[Program, Program, Context]:
    torch.manual_seed(0)
    program = captured(Block(), x)
    made, context = program.clone(), Context()
    QuantizeDynamic(per="token" if per == "token" else "tensor", noise=1.0, anyway=True)(made, context)
    refresh(made)
    return program, made, context


@pytest.mark.parametrize("per", ["tensor", "token"])
def test_values_that_are_read_are_those_of_torchs_operators(per: str) -> None:
    x = sample(6, 32)
    program, made, context = quantized(x, per)
    assert len(context.taken) == 4
    names = [key(node) for node in made.nodes]
    assert sum("choose_qparams" in name for name in names) == 2, "one for each tensor, not for each layer"
    (got,), (wanted,) = made.run((x,)), program.run((x,))
    assert 0 < float((got - wanted).norm() / wanted.norm()) < (0.03 if per == "tensor" else 0.02)
    assert (made.run((x * 100,))[0] - program.run((x * 100,))[0]).norm() < 0.03 * program.run((x * 100,))[0].norm()


@pytest.mark.parametrize(
    ("per", "shape"),
    [
        ("tensor", (6, 32)),
        ("tensor", (2, 5, 32)),
        ("token", (2, 5, 32)),
        pytest.param("token", (6, 32), marks=pytest.mark.slow),
    ],
)
def test_onnx_runtime_computes_the_same(per: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    x = sample(6, 32) if len(shape) == 2 else sample(10, 32).reshape(shape)
    _, made, _ = quantized(x, per)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    path = str(save_onnx(made, tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for value in (x, x.flip(0) * 3):
        (wanted,) = made.run((value,))
        (got,) = session.run(None, {session.get_inputs()[0].name: value.numpy()})
        allowed = 8 * rounding(made, (value,), (wanted,))[0] + 1e-4
        np.testing.assert_allclose(got, wanted.numpy(), atol=allowed)
    if per == "tensor":
        found = collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
        assert found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"] == 4, found
        assert not {"MatMul", "Gemm", "MatMulInteger", "DequantizeLinear"} & set(found)


def test_convolutions_and_small_layers_are_declined() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    program, context = captured(net, torch.rand(2, 3, 8, 8)), Context()
    QuantizeDynamic()(program, context)
    assert not context.taken
    told = {site.node: site.detail for site in context.skipped}
    assert "slower than in floating point" in told["conv2d"] and "too small" in told["linear"]


def test_through_optimize(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 64)).eval()
    x = sample(16, 128)
    fast = tersor.optimize(
        model, (x,), passes="quantize-dynamic", budget=0.05, recover="none", backend="onnxruntime", seconds=0.0,
        progress=False,
    )  # fmt: skip
    assert [(step.status, len(step.sites)) for step in fast.report.steps] == [("kept", 2)]
    record = fast.report.steps[0].precision
    assert record is not None and [layer.kept for layer in record.layers] == [True, True]
    wanted = model(x).detach()
    assert float((fast(x) - wanted).norm() / wanted.norm()) < 0.05
    assert fast.to_onnx(tmp_path / "dynamic.onnx").stat().st_size < 40_000, "weights are a quarter of 98 kB"


class Spoiled(nn.Module):
    """A layer that reads one channel much larger than the others, beside layers that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.spoiled, self.last = (nn.Linear(128, 128) for _ in range(3))
        self.size = nn.Buffer(torch.ones(128).index_fill(0, torch.tensor([5]), 300.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x))) + self.spoiled(torch.tanh(x) * self.size)


@pytest.mark.parametrize(("budget", "kept"), [(0.9, {"first", "last", "spoiled"}), (0.02, {"first", "last"})])
def test_layers_stay_in_floating_point_until_the_budget_holds(budget: float, kept: set[str]) -> None:
    torch.manual_seed(0)
    model = Spoiled().eval()
    with torch.no_grad():
        model.spoiled.weight[:, 5] = 0.0  # so that the large channel costs precision, and brings nothing
    fast = tersor.optimize(
        model, (sample(16, 128),), passes="quantize-dynamic{noise=1;anyway=true}", budget=budget, recover="none",
        backend="onnxruntime", seconds=0.0, progress=False,
    )  # fmt: skip
    (step,) = fast.report.steps
    assert step.status == "kept" and step.precision is not None
    assert {layer.origin.split(".")[-1] for layer in step.precision.layers if layer.kept} == kept
    assert fast.report.quality is not None and fast.report.quality.after >= 1 - budget


def test_options() -> None:
    assert render(parse("quantize-dynamic{per=token}")) == "quantize-dynamic{per=token}"
    with pytest.raises(UsageError):
        parse("quantize-dynamic{per=row}")
    with pytest.raises(UsageError):
        parse("quantize-dynamic{weights=int9}")
