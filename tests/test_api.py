"""`tersor.optimize` from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import tersor
from tersor.backend import Backend, Compiled
from tersor.errors import BackendError, CaptureError, ExportError, InputError, OutputError, ParityError, UsageError
from tersor.lower import compile_checked
from tersor.parts import OptimizedParts
from tersor.pipeline import Reference
from tersor.program import Program
from tersor.target import Target, detect


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scores": self.head(torch.relu(self.norm(self.conv(image))).mean((2, 3))).softmax(-1)}


@pytest.fixture(scope="module")
def fast() -> tersor.Optimized:
    batch = torch.export.Dim("batch")
    return tersor.optimize(
        Net().eval(), (torch.randn(3, 3, 8, 8),), dynamic={"image": {0: batch}}, backend="onnxruntime", progress=False,
        seconds=0.1,
    )  # fmt: skip


def test_it_is_called_like_the_original(fast: tersor.Optimized) -> None:
    assert fast.original is not None
    image = torch.randn(6, 3, 8, 8)
    torch.testing.assert_close(fast(image)["scores"], fast.original(image=image)["scores"])


def test_the_report_says_what_was_done(fast: tersor.Optimized) -> None:
    report = json.loads(fast.report.json())
    folded = [step for step in report["steps"] if step["spec"] == "fold-batch-norm"]
    assert folded[0]["status"] == "kept" and len(folded[0]["sites"]) == 1
    assert all(parity["passed"] for parity in report["parity"])
    assert {timing["name"] for timing in report["timings"]} >= {"eager (original)"}
    assert "fold-batch-norm" in str(fast.report)


def test_onnx_keeps_names_and_dynamic_axes(fast: tersor.Optimized, tmp_path: Path) -> None:
    model = onnx.load(fast.to_onnx(tmp_path / "out.onnx"))
    (item,) = model.graph.input
    assert item.name == "image"
    assert item.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_what_was_rewritten_is_what_is_written(tmp_path: Path) -> None:
    fast = tersor.optimize(Net().eval(), (torch.randn(3, 3, 8, 8),), backend="onnxruntime", progress=False, seconds=0)
    model = onnx.load(fast.to_onnx(tmp_path / "out.onnx"))
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


def test_a_saved_folder_runs_without_tersor(fast: tersor.Optimized, tmp_path: Path) -> None:
    folder = fast.save(tmp_path / "deployed")
    assert {"model.onnx", "run.py", "report.json", "report.html"} <= {path.name for path in folder.iterdir()}
    script = (folder / "run.py").read_text(encoding="utf-8")
    assert "tersor" not in script
    done = subprocess.run([sys.executable, str(folder / "run.py")], capture_output=True, text=True, check=True)
    assert "scores" in done.stdout or "softmax" in done.stdout


def test_outputs_never_overwrite_a_folder_with_contents(fast: tersor.Optimized, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="not an empty folder"):
        fast.save(tmp_path)
    with pytest.raises(OutputError, match="does not exist"):
        fast.to_onnx(tmp_path / "missing" / "out.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_a_wrong_shape_is_refused(fast: tersor.Optimized) -> None:
    with pytest.raises(InputError, match="axis 1, wanted 3"):
        fast(torch.randn(2, 4, 8, 8))


class Wrong:
    """A backend whose artefact is wrong: the program is right, what runs is not."""

    name, description = "wrong", "plants a fault after lowering"

    def __init__(self, only_at: int | None = None) -> None:
        self.only_at = only_at

    def missing(self) -> str | None:
        return None

    def compile(self, program: Program, target: Target) -> Compiled:
        def call(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            wrong = self.only_at is None or inputs[0].shape[0] == self.only_at
            return tuple(value * (1.01 if wrong else 1.0) for value in program.run(inputs))

        return call


@pytest.mark.parametrize("only_at", [None, 4])
def test_a_fault_in_the_artefact_alone_is_caught(fast: tersor.Optimized, only_at: int | None) -> None:
    assert fast.program is not None and fast.original is not None
    planted: Backend = Wrong(only_at)  # type: ignore[assignment]
    with pytest.raises(ParityError, match="wrong computes something else: output"):
        compile_checked(fast.program, planted, Reference.of(fast.original), detect())


def test_the_known_wrong_translation_does_not_ship(tmp_path: Path) -> None:
    """scatter_reduce("mean") exports to ONNX without an error and computes something else."""

    class Mean(nn.Module):
        def forward(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            return torch.zeros(3, 4).scatter_reduce(0, index, x, "mean", include_self=False)

    index = torch.tensor([[0, 1, 2, 0]] * 6)
    with pytest.raises((BackendError, ExportError, ParityError)):
        tersor.optimize(Mean().eval(), (torch.randn(6, 4), index), backend="onnxruntime", progress=False, seconds=0)


class Branchy(nn.Module):
    """The whole cannot be exported; its two halves can."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        y = self.first(x)
        if y.mean() > 100:
            return [{"y": y}]
        return [{"y": self.second(y)}]


def test_the_largest_exportable_parts_are_optimized_and_put_back() -> None:
    model, x = Branchy().eval(), torch.randn(2, 3, 16, 16)
    fast = tersor.optimize(model, (x,), backend="onnxruntime", progress=False, seconds=0)
    assert isinstance(fast, OptimizedParts)
    assert set(fast.parts) == {"first", "second"}
    torch.testing.assert_close(fast(x)[0]["y"], model(x)[0]["y"], rtol=1e-4, atol=1e-5)
    assert any("cannot be captured whole" in note for note in fast.report.notes)
    other = torch.randn(5, 3, 20, 20)
    torch.testing.assert_close(fast(other)[0]["y"], model(other)[0]["y"])
    with pytest.raises(ExportError, match="first, second"):
        fast.to_onnx("never.onnx")


def test_nothing_to_capture_is_an_error() -> None:
    class Hopeless(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(CaptureError, match="cannot capture"):
        tersor.optimize(Hopeless().eval(), (torch.randn(3),), progress=False)


def test_a_file_with_sequences_is_kept_as_it_is(tmp_path: Path) -> None:
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [2]))
    graph = helper.make_graph(
        [helper.make_node("SequenceAt", ["s", "i"], ["y"])], "g",
        [helper.make_value_info("s", sequence), helper.make_tensor_value_info("i", TensorProto.INT64, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    path = tmp_path / "sequence.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    kept = tersor.optimize(path, progress=False, seconds=0)
    assert kept.program is None
    assert any("kept as it is" in note for note in kept.report.notes)
    assert kept.to_onnx(tmp_path / "copy.onnx").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "options",
    [{"budget": 1.5}, {"budget": -0.1}, {"latency": 5.0, "passes": "canonicalize"}, {"recover": "least-square"}],
)
def test_wrong_options_of_lossy_passes_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        tersor.optimize(Net().eval(), (torch.randn(1, 3, 8, 8),), progress=False, **options)


def test_importing_tersor_does_not_import_torch() -> None:
    code = "import sys, tersor; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
