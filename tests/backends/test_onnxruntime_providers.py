"""ONNX Runtime's CUDA and TensorRT providers: options, fallbacks that are refused, tensors that stay where they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest
import torch
from torch import nn

from tersor.backend import find_backend
from tersor.backends.onnxruntime import SLOWER, OnnxRuntime
from tersor.backends.onnxruntime_tensorrt import OnnxRuntimeTensorRT
from tersor.capture.torch import capture_module
from tersor.errors import BackendError
from tersor.export import runtime, to_onnx_model
from tersor.export.binding import run_bound
from tersor.program import Program
from tersor.target import Target

BATCH = torch.export.Dim("batch", min=1, max=16)
CUDA = Target("cuda", "cuda")


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        made = self.layer(x)
        return made, made > 0, made.argmax(-1)


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return capture_module(Two().eval(), (torch.randn(2, 4),), ({0: BATCH},))


def test_bound_tensors_give_what_the_program_does(program: Program) -> None:
    session = runtime.Session(to_onnx_model(program), 1)
    names = [value.name for value in session.session.get_inputs()], [v.name for v in session.session.get_outputs()]
    for batch in (2, 5):
        inputs = (torch.randn(batch, 4),)
        got = run_bound(session.session, *names, inputs, "cpu")
        for wanted, value in zip(program.run(inputs), got, strict=True):
            assert wanted.dtype == value.dtype
            torch.testing.assert_close(wanted, value, rtol=1e-5, atol=1e-6)
        again = run_bound(session.session, *names, (inputs[0] + 1,), "cpu")
        assert not torch.equal(again[0], got[0])


def options_of(provider: runtime.Provider) -> dict[str, str]:
    assert not isinstance(provider, str)
    return provider[1]


def test_the_cuda_provider_gets_its_options(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Session:
        def __init__(self, model, threads, device, providers, without) -> None:
            seen.append((device, providers, without))

    monkeypatch.setattr("tersor.backends.onnxruntime.Session", Session)
    find_backend("onnxruntime{nhwc=true}").compile(program, CUDA)
    find_backend("onnxruntime").compile(program, Target("cpu", "cpu", 1))
    cuda = ("CUDAExecutionProvider", {"use_tf32": "0", "prefer_nhwc": "1"})
    assert seen == [("cuda", [cuda, "CPUExecutionProvider"], ()), ("cpu", None, SLOWER)]
    assert options_of(OnnxRuntime(tf32=True).cuda())["use_tf32"] == "1"


def test_a_provider_that_is_not_built_in(program: Program) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build has it")
    with pytest.raises(BackendError, match="no CUDAExecutionProvider; pip install onnxruntime-gpu"):
        find_backend("onnxruntime").compile(program, CUDA)


def test_a_silent_fallback_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    fallen = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(runtime, "_load", lambda *_: fallen)
    with pytest.raises(BackendError, match="could not load CUDAExecutionProvider and would run on CPUExecution"):
        runtime.Session("model.onnx", 1, "cuda")


def test_the_tensorrt_provider_gets_profiles_types_and_caches(program: Program, tmp_path: Path) -> None:
    backend = OnnxRuntimeTensorRT(workspace=1.0, cache=str(tmp_path))
    providers = backend.providers(program, backend._model(program))
    assert [runtime.provider_name(item) for item in providers] == [
        "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider",
    ]  # fmt: skip
    name = program.interface.input_names[0]
    options = options_of(providers[0])
    assert options["trt_profile_min_shapes"] == f"{name}:1x4"
    assert options["trt_profile_opt_shapes"] == f"{name}:2x4"
    assert options["trt_profile_max_shapes"] == f"{name}:16x4"
    assert options["trt_max_workspace_size"] == str(2**30)
    assert options["trt_timing_cache_path"] == str(tmp_path)
    assert {options[f"trt_{kind}_enable"] for kind in ("fp16", "bf16", "int8", "sparsity")} == {"0"}
    half = capture_module(nn.Linear(4, 4).half().eval(), (torch.randn(2, 4).half(),))
    assert options_of(backend.providers(half, backend._model(half))[0])["trt_fp16_enable"] == "1"


def test_without_the_provider_it_is_missing_and_can_be_saved(program: Program, tmp_path: Path) -> None:
    backend = find_backend("onnxruntime_tensorrt")
    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        assert "onnxruntime-gpu" in str(backend.missing())
    files = backend.save(program, tmp_path / "out")
    assert sorted(path.name for path in files) == ["model.onnx", "run.py"]
    compile((tmp_path / "out" / "run.py").read_text(), "run.py", "exec")
    with pytest.raises(BackendError, match="CUDA devices"):
        backend.compile(program, Target("cpu", "cpu", 1))


def test_nothing_is_rejected_since_cuda_takes_the_rest() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.unique(x)

    findings = find_backend("onnxruntime_tensorrt").lint(capture_module(Odd().eval(), (torch.randn(4),)), CUDA)
    assert any("leaves the engine" in item.problem or "no ONNX form" in item.problem for item in findings)
    assert not any(item.fatal for item in findings)


@pytest.mark.gpu
def test_on_a_device(program: Program) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider")
    call = find_backend("onnxruntime").compile(program, CUDA)
    inputs = (torch.randn(3, 4),)
    for moved in (inputs, tuple(value.cuda() for value in inputs)):
        for wanted, got in zip(program.run(inputs), call(*moved), strict=True):
            assert got.device == moved[0].device
            torch.testing.assert_close(wanted, got.cpu(), rtol=1e-4, atol=1e-5)


@pytest.mark.tensorrt
def test_the_tensorrt_provider_on_a_device(program: Program) -> None:
    backend = find_backend("onnxruntime_tensorrt")
    if problem := backend.missing():
        pytest.skip(problem)
    inputs = (torch.randn(3, 4),)
    for wanted, got in zip(program.run(inputs), backend.compile(program, CUDA)(*inputs), strict=True):
        torch.testing.assert_close(wanted, got, rtol=1e-4, atol=1e-5)
