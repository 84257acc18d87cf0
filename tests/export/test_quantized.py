"""Stored weights in ONNX files: bits in the file, kernels in the runtimes, the program's own numbers."""

from __future__ import annotations

import collections
import functools
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tersor.backends.onnxruntime import OnnxRuntime
from tersor.context import Context
from tersor.export import save_onnx
from tersor.export.runtime import Session
from tersor.program import Program
from tersor.refresh import refresh
from tersor.spec import parse
from tests.factor.zoo import seeded
from tests.passes.harness import captured


class Layers(nn.Module):
    """Layers with and without bias, and with an activation that ONNX Runtime likes to fuse."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(64, 96), nn.Linear(96, 64, bias=False), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(torch.tanh(self.second(torch.relu(self.first(x)))))


@functools.cache
def layers(shape: tuple[int, ...]) -> tuple[Program, Tensor]:
    """Captured once; not to be edited."""
    x = seeded(*shape, 64)
    return captured(Layers(), x), x


def stored(spec: str, shape: tuple[int, ...]) -> tuple[Program, Tensor]:
    program, x = layers(shape)
    program = program.clone()
    for item in parse(f"quantize-weights{spec}"):
        item(program, Context(calibration=((x,),)))
    return refresh(program), x


def kernels(path: Path, folder: Path) -> collections.Counter[str]:
    made = folder / "optimized.onnx"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(made), 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(made).graph.node)


FOUR = ["{}", "{format=uint4;method=nearest;group=16}"]


@pytest.mark.parametrize(("spec", "shape"), [(FOUR[0], (5,)), (FOUR[1], (5,)), (FOUR[0], (5, 7))])
def test_four_bits_in_the_file_and_in_the_kernels(spec: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    program, x = stored(spec, shape)
    path = save_onnx(program, tmp_path / "model.onnx")
    kinds = {item.data_type: item for item in onnx.load(path).graph.initializer if len(item.dims) == 2}
    four = kinds.get(onnx.TensorProto.INT4) or kinds[onnx.TensorProto.UINT4]
    assert len(four.raw_data) * 2 == four.dims[0] * four.dims[1]
    assert path.stat().st_size < 0.33 * 4 * (64 * 96 + 96 * 64 + 64 * 32)
    assert kernels(path, tmp_path)["MatMulNBits"] == 3
    torch.testing.assert_close(Session(path).run((x,))[0], program.run((x,))[0], rtol=1e-5, atol=1e-5)


def test_the_saved_script_runs_four_bits_as_they_were_checked(tmp_path: Path) -> None:
    program, _ = stored(FOUR[0], (5,))
    OnnxRuntime().save(program, tmp_path)
    assert 'accuracy_level", "1"' in (tmp_path / "run.py").read_text(encoding="utf-8")
    done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("{format=int8}", (5,)),
        pytest.param("{format=int8;group=32}", (5, 7), marks=pytest.mark.slow),
        ("{format=e4m3}", (5, 7)),
    ],
)
def test_eight_bits_are_taken_back_when_the_file_is_loaded(spec: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    program, x = stored(spec, shape)
    path = save_onnx(program, tmp_path / "model.onnx")
    found = kernels(path, tmp_path)
    assert not set(found) & {"MatMulNBits", "DequantizeLinear", "Cast", "Mul"}
    torch.testing.assert_close(Session(path).run((x,))[0], program.run((x,))[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", [FOUR[1], pytest.param("{format=nvfp4;backend=eager}", marks=pytest.mark.slow)])
def test_lower_opsets_store_eight_bits_and_the_same_numbers(spec: str, tmp_path: Path) -> None:
    program, x = stored(spec, (5,))
    path = save_onnx(program, tmp_path / "model.onnx", 18)
    assert {entry.version for entry in onnx.load(path).opset_import} == {18}
    torch.testing.assert_close(Session(path).run((x,))[0], program.run((x,))[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", [FOUR[1], pytest.param("{format=e4m3}", marks=pytest.mark.slow)])
def test_openvino_computes_the_same(spec: str) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    from tersor.backends.openvino import BACKEND
    from tersor.target import detect

    program, x = stored(spec, (5, 7))
    (got,) = BACKEND.compile(program, detect())(x)
    torch.testing.assert_close(got, program.run((x,))[0], rtol=1e-5, atol=1e-5)
