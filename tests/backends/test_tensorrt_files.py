"""What is written where TensorRT is absent: the model, two scripts, the commands; options, and the command ``lint``."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from tersor.backend import Finding, backend_names, find_backend, plain_name
from tersor.backends import _tensorrt_api as api
from tersor.backends._tensorrt_cache import cache_path
from tersor.backends._tensorrt_commands import script
from tersor.backends._tensorrt_options import Options, version_of
from tersor.backends._tensorrt_profiles import Profile
from tersor.backends.tensorrt import TensorRT
from tersor.capture.torch import capture_module
from tersor.cli import main
from tersor.errors import UsageError
from tersor.lower import _candidates
from tersor.program import Program
from tersor.report.model import Report
from tersor.target import named
from tests.backends.tensorrt_fake import FakeTensorRT

BATCH = torch.export.Dim("batch", min=1, max=32)


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return capture_module(nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval(), (torch.randn(2, 4),), ({0: BATCH},))


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "missing", lambda: "tensorrt is not installed; install it")


def test_a_folder_is_written_without_tensorrt(absent: None, program: Program, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    files = find_backend("tensorrt").save(program, folder)
    assert sorted(files) == sorted(folder.iterdir())
    assert [path.name for path in sorted(files)] == ["build.py", "commands.sh", "model.onnx", "run.py"]
    onnx.checker.check_model(onnx.load(folder / "model.onnx"), full_check=True)
    assert not any("tersor" in path.read_text() for path in files if path.suffix in (".py", ".sh"))


def test_the_build_script_builds(
    absent: None, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    TensorRT(refit=True, workspace=1.0).save(program, tmp_path / "out")
    runpy.run_path(str(tmp_path / "out" / "build.py"))
    assert (tmp_path / "out" / "model.plan").read_bytes().startswith(b"fake plan")
    name = program.interface.input_names[0]
    assert trt.called("IOptimizationProfile.set_shape") == [(name, [1, 4], [2, 4], [32, 4])]
    assert [flag.name for (flag,) in trt.called("IBuilderConfig.set_flag")] == ["REFIT"]
    trt.refused = {"Relu": "never heard of it"}
    with pytest.raises(SystemExit, match="never heard of it"):
        runpy.run_path(str(tmp_path / "out" / "build.py"))


def test_the_commands(program: Program, absent: None, tmp_path: Path) -> None:
    TensorRT(shapes="batch:1:8:16", level=4, cache="none").save(program, tmp_path / "out")
    path = tmp_path / "out" / "commands.sh"
    assert subprocess.run(["sh", "-n", str(path)], check=False).returncode == 0
    joined = path.read_text().replace("\\\n", "")
    commands = [shlex.split(line) for line in joined.splitlines() if line and not line.startswith(("#", "set"))]
    assert [command[0] for command in commands] == ["trtexec"] * 3 + ["polygraphy"] * 2
    name = program.interface.input_names[0]
    build, compare = commands[0], commands[4]
    for wanted in ("--stronglyTyped", "--noTF32", "--builderOptimizationLevel=4", f"--minShapes={name}:1x4",
                   f"--optShapes={name}:8x4", f"--maxShapes={name}:16x4", "--saveEngine=model.plan"):  # fmt: skip
        assert wanted in build
    assert f"--shapes={name}:2x4" in commands[1] and "--useCudaGraph" in commands[1]
    assert "--exportProfile=profile.json" in commands[2]
    place = compare.index("--trt-max-shapes")
    assert compare[place + 1] == f"{name}:[16,4]" and "--strongly-typed" in compare and "--onnxrt" in compare


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        (Options(refit=True), ["--refit"]),
        (Options(strip=True), ["--refit", "--stripWeights"]),
        (Options(compatible=True, hardware="capability"), ["--versionCompatible", "sameComputeCapability"]),
        (Options(workspace=1.5), ["--memPoolSize=workspace:1536"]),
        (Options(), ["--sparsity=enable", "--sparse-weights", "--timingCacheFile=timing.cache"]),
    ],
)
def test_options_in_the_commands(options: Options, flags: list[str]) -> None:
    text = script([Profile({"x": ((1,), (2,), (3,))})], options, sparse=True, example={"x": (2,)})
    assert all(flag in text for flag in flags)
    assert "Shapes=" not in script([], options, sparse=False, example={})


def test_fixed_shapes_have_no_profile(absent: None, tmp_path: Path) -> None:
    fixed = capture_module(nn.Linear(4, 4).eval(), (torch.randn(2, 4),))
    TensorRT().save(fixed, tmp_path / "out")
    assert "Shapes" not in (tmp_path / "out" / "commands.sh").read_text()
    assert "PROFILES = []" in (tmp_path / "out" / "build.py").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorrt{refitt=true}", "did you mean 'refit'"),
        ("tensorrt{level=9}", "level is 9; wanted 0 to 5"),
        ("tensorrt{hardware=any}", "wanted one of same, ampere, capability"),
        ("tensorrt{version=8.6}", "wanted 10 or later"),
        ("tensorrt{growth=0}", "at least 1"),
        ("tensorrt{name=x}", "has no option"),
        ("tensorr", "did you mean 'tensorrt'"),
        ("eager{x=1}", "its options: none"),
        ("tensorrt{refit=true", "unknown backend"),
    ],
)
def test_options_that_do_not_fit(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_backend(name)


def test_options_in_braces() -> None:
    made = find_backend("tensorrt{refit=true;shapes=batch:1:8:64;workspace=2}")
    assert made == TensorRT(refit=True, shapes="batch:1:8:64", workspace=2.0)
    assert find_backend("tensorrt{}") == find_backend("tensorrt")
    assert plain_name("onnxruntime{tf32=true}") == "onnxruntime"
    assert version_of("11.4.0.106") == (11, 4)


def test_cache_files_by_version_and_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paths = {cache_path("auto", version, name) for version in ((10, 9), (11, 4)) for name in ("A100", "H100 PCIe")}
    assert len(paths) == 4 and all(path is not None and tmp_path in path.parents for path in paths)
    assert cache_path("own.cache", (11, 4), "") == Path("own.cache")


def test_where_it_is_absent_others_run_quietly_on_a_cpu_and_say_why_on_a_gpu(absent: None) -> None:
    assert {"tensorrt", "onnxruntime_tensorrt"} <= set(backend_names())
    on_cpu, on_gpu = Report("m", "p", "cpu"), Report("m", "p", "h100")
    assert "onnxruntime" in [backend.name for backend in _candidates("auto", named("cpu"), on_cpu)]
    assert not any("tensorrt" in note for note in on_cpu.notes)
    names = [backend.name for backend in _candidates("auto", named("h100"), on_gpu)]
    assert "eager" in names and "tensorrt" not in names
    assert "backend tensorrt was not tried: tensorrt is not installed; install it" in on_gpu.notes


@pytest.fixture
def lint(capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["lint", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def written(path: Path, operator: str) -> Path:
    shape: list[str | int | None] = ["batch", 4]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, ["x"], ["y"], name="the_node")], "g",
        [value("x", onnx.TensorProto.FLOAT, shape)], [value("y", onnx.TensorProto.FLOAT, shape)],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_the_command(lint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "m.onnx", "Relu")
    code, out, _ = lint(path, "--backend", "tensorrt", "--target", "h100", "--json")
    found = json.loads(out)
    assert code == 0 and found["target"] == "h100"
    assert ["no largest size" in finding["problem"] for finding in found["findings"]] == [True]
    code, out, _ = lint(path)
    assert code == 0 and "accepted, as far as is known; 1 remarks" in out and "what to do" in out
    code, out, _ = lint(path, "--backend", "tensorrt{shapes=batch:1:2:3}")
    assert code == 0 and "remarks" not in out
    monkeypatch.setattr(TensorRT, "lint", lambda *_: [Finding("a", "bad", "mend it", fatal=True)])
    code, out, _ = lint(path)
    assert code == 8 and "rejected, for 1 reasons" in out and "mend it" in out
    assert lint(path, "--backend", "onnxruntime", "--target", "cpu")[0] == 0


def test_optimize_writes_a_folder_for_a_runtime_that_is_not_here(absent: None, tmp_path: Path) -> None:
    path, out = written(tmp_path / "m.onnx", "Relu"), tmp_path / "out"
    common = ["optimize", str(path), "-o", str(out), "--passes", "canonicalize", "--backend", "eager", "--seconds", "0"]
    assert main([*common, "--quiet", "--deploy", "tensorr"]) == 2
    assert main([*common, "--quiet", "--deploy", "tensorrt{shapes=batch:1:2:4}"]) == 0
    made = {file.name for file in out.iterdir()}
    assert made == {"build.py", "commands.sh", "model.onnx", "report.html", "report.json", "run.py"}
    assert "--maxShapes=x:4x4" in (out / "commands.sh").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "h1000"], "did you mean 'h100'"),
        (["--backend", "tensort"], "did you mean 'tensorrt'"),
        (["--backend", "tensorrt{level=7}"], "wanted 0 to 5"),
    ],
)
def test_mistakes_on_the_command_line(lint, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, _, error = lint(written(tmp_path / "m.onnx", "Relu"), *arguments)
    assert code == 2 and re.search(message, error)
