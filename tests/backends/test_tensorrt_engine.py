"""Builds, runs, profiles and refits engines in the stand-in for TensorRT, against the program itself."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tersor
from tersor.backend import find_backend
from tersor.backends import _tensorrt_api as api
from tersor.backends import tensorrt
from tersor.backends.tensorrt import CompiledEngine, TensorRT
from tersor.capture.torch import capture_module
from tersor.errors import BackendError
from tersor.program import Program
from tersor.target import Target
from tests.backends.tensorrt_fake import FakeTensorRT, Host

BATCH = torch.export.Dim("batch", min=1)
LENGTH = torch.export.Dim("length", min=1, max=64)


class Mixed(nn.Module):
    """Convolution, attention over a dynamic length, several dtypes, an output that is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(8, 16, 3, padding=1)
        self.norm = nn.LayerNorm(16)
        self.table = nn.Embedding(10, 16)

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.norm(F.relu(self.convolution(x)).transpose(1, 2)) + self.table(index)
        heads = hidden.reshape(x.shape[0], x.shape[2], 2, 8).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
        return {"mixed": mixed, "best": mixed.argmax(-1), "positive": mixed > 0, "same": index}


def example(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch * 100 + length)
    x = torch.randn(batch, 8, length, generator=generator)
    return x, torch.randint(0, 10, (batch, length), generator=generator)


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return capture_module(Mixed().eval(), example(2, 6), ({0: BATCH, 2: LENGTH}, {0: BATCH, 1: LENGTH}))


@pytest.fixture(scope="module")
def small() -> Program:
    torch.manual_seed(0)
    return capture_module(nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval(), (torch.randn(2, 4),), ({0: BATCH},))


Built = Callable[..., tuple[CompiledEngine, FakeTensorRT, Host]]


@pytest.fixture
def built() -> Built:
    def build(program: Program, options: TensorRT | None = None, trt: FakeTensorRT | None = None):
        trt, device = trt or FakeTensorRT(), Host()
        made = (options or TensorRT(cache="none")).on(trt, program.clone(), device, "Fake GPU")
        return made, trt, device

    return build


def check(program: Program, call: Callable[..., tuple[torch.Tensor, ...]], inputs: tuple[torch.Tensor, ...]) -> None:
    for wanted, got in zip(program.run(inputs), call(*inputs), strict=True):
        assert (wanted.dtype, wanted.shape) == (got.dtype, got.shape)
        if wanted.dtype.is_floating_point:
            torch.testing.assert_close(wanted, got, rtol=1e-4, atol=1e-5)
        else:
            assert (wanted != got).float().mean() < 0.1


@pytest.mark.parametrize("graphs", [True, False])
def test_it_computes_what_the_program_does(program: Program, built: Built, graphs: bool) -> None:
    call, trt, device = built(program, TensorRT(cache="none", graphs=graphs))
    for sizes in ((2, 6), (3, 9), (1, 6), (2, 1), (2, 6), (2, 6)):
        check(program, call, example(*sizes))
    assert device.captures == (1 if graphs else 0)  # of the shape that came again
    assert {stream for (stream,) in trt.called("IExecutionContext.execute_async_v3")} == ({7, 9} if graphs else {7})


def test_results_survive_the_next_call_and_inputs_are_left_alone(program: Program, built: Built) -> None:
    call, _, _ = built(program)
    inputs = example(2, 6)
    kept = [value.clone() for value in inputs]
    runs = [call(*inputs) for _ in range(3)]
    copies = [[value.clone() for value in run] for run in runs]
    other = tuple(value + 1 if value.dtype.is_floating_point else 9 - value for value in inputs)
    assert not torch.equal(runs[0][0], call(*other)[0])
    for run, copied in zip(runs, copies, strict=True):
        assert all(torch.equal(value, same) for value, same in zip(run, copied, strict=True))
    assert all(torch.equal(value, same) for value, same in zip(inputs, kept, strict=True))


def test_threads_take_turns(program: Program, built: Built) -> None:
    call, _, _ = built(program)
    inputs = [example(1 + n % 3, 4 + n % 4) for n in range(16)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda flat: call(*flat), inputs))
    for flat, got in zip(inputs, results, strict=True):
        torch.testing.assert_close(got[0], program.run(flat)[0], rtol=1e-4, atol=1e-5)


def test_only_so_many_graphs_are_kept(small: Program, built: Built) -> None:
    call, _, device = built(small)
    for _ in range(2):
        for batch in range(1, 7):
            check(small, call, (torch.randn(batch, 4),))
    check(small, call, (torch.randn(6, 4),))
    assert device.captures == 6  # the last shape is still there, so it is not recorded again
    check(small, call, (torch.randn(1, 4),))
    assert device.captures == 7


def test_the_profile_is_that_of_the_dimensions(program: Program, built: Built) -> None:
    call, trt, _ = built(program)
    shapes = {name: sizes for name, *sizes in trt.called("IOptimizationProfile.set_shape")}
    assert shapes["x"] == [(1, 8, 1), (2, 8, 6), (16, 8, 64)]
    with pytest.raises(BackendError, match=r"outside of the engine's profiles.*shapes=name"):
        call(*example(2, 65))


def test_of_several_profiles_the_one_that_fits_is_used(small: Program, built: Built) -> None:
    call, trt, _ = built(small, TensorRT(cache="none", shapes="batch:1:1:1+batch:2:8:32"))
    assert len(trt.called("IBuilderConfig.add_optimization_profile")) == 2
    for batch in (1, 32, 1):
        check(small, call, (torch.randn(batch, 4),))
    assert trt.called("IExecutionContext.set_optimization_profile_async") == [(1, 7)]
    with pytest.raises(BackendError, match="outside"):
        call(torch.randn(33, 4))


def test_options_become_settings(small: Program, built: Built) -> None:
    asked = TensorRT(
        cache="none", refit=True, compatible=True, tf32=True, level=5, workspace=2.0, hardware="ampere", sparse=True
    )
    _, trt, _ = built(small, asked)
    on = {flag.name for (flag,) in trt.called("IBuilderConfig.set_flag")}
    off = {flag.name for (flag,) in trt.called("IBuilderConfig.clear_flag")}
    assert on == {"REFIT", "VERSION_COMPATIBLE", "TF32"}
    assert off == {"SPARSE_WEIGHTS", "STRIP_PLAN"}
    assert trt.called("IBuilderConfig.builder_optimization_level") == [(5,)]
    assert trt.called("IBuilderConfig.set_memory_pool_limit")[0][1] == 2 * 2**30
    assert trt.called("IBuilderConfig.hardware_compatibility_level")[0][0].name == "AMPERE_PLUS"
    assert trt.called("Runtime.engine_host_code_allowed") == [(True,)]


def test_sparse_kernels_are_asked_for_where_weights_have_the_pattern(built: Built) -> None:
    layer = nn.Linear(256, 256).half()
    mask = torch.tensor([1.0, 0.0, 0.0, 1.0]).repeat(64)
    layer.weight.data *= mask
    sparse = capture_module(layer.eval(), (torch.randn(2, 256).half(),))
    assert "SPARSE_WEIGHTS" in {flag.name for (flag,) in built(sparse)[1].called("IBuilderConfig.set_flag")}
    layer.weight.data += 1
    dense = capture_module(layer, (torch.randn(2, 256).half(),))
    assert "SPARSE_WEIGHTS" not in {flag.name for (flag,) in built(dense)[1].called("IBuilderConfig.set_flag")}


@pytest.mark.parametrize(("version", "attention"), [("11.4.0", True), ("10.14.1", True), ("10.13.3", False)])
def test_attention_stays_whole_where_the_parser_knows_it(program, built, version: str, attention: bool) -> None:
    call, trt, _ = built(program, trt=FakeTensorRT(version))
    operators = [node.op_type for node in call.engine.engine._model.graph.node]
    assert ("Attention" in operators) == attention
    check(program, call, example(3, 5))
    assert trt.called("Builder.create_network") == [(1,)]  # strongly typed in both


class Decoder(nn.Module):
    """What opset 23 writes beside Attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.norm(x).unflatten(2, (2, 8)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads)


@pytest.mark.parametrize(("version", "whole"), [("10.15.0", True), ("10.14.1", False)])
def test_no_operator_is_newer_than_the_parser(built: Built, version: str, whole: bool) -> None:
    decoder = capture_module(Decoder().eval(), (torch.randn(1, 5, 16),))
    call, _, _ = built(decoder, trt=FakeTensorRT(version))
    operators = {node.op_type for node in call.engine.engine._model.graph.node}
    assert ({"Attention", "RMSNormalization"} & operators) == ({"Attention", "RMSNormalization"} if whole else set())
    check(decoder, call, (torch.randn(1, 5, 16),))


def test_the_timing_cache_is_kept_joined_and_started_anew(small: Program, built: Built, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "timing.cache"
    built(small, TensorRT(cache=str(path)))
    first = path.read_bytes()
    assert first.startswith(b"fake cache ") and b"Relu" in first
    path.write_bytes(b"fake cache Conv")
    built(small, TensorRT(cache=str(path)))
    assert b"Conv" in path.read_bytes() and b"Relu" in path.read_bytes()
    path.write_bytes(b"damaged")
    check(small, built(small, TensorRT(cache=str(path)))[0], (torch.randn(2, 4),))
    assert path.read_bytes() == first
    (tmp_path / "file").write_bytes(b"")
    built(small, TensorRT(cache=str(tmp_path / "file" / "timing.cache")))  # cannot be written, and is not missed


def test_what_the_parser_refuses_is_named(program: Program, built: Built) -> None:
    trt = FakeTensorRT()
    trt.refused = {"ArgMax": "no kernel\n for it"}
    with pytest.raises(BackendError, match=r"refuses the model: ArgMax .*no kernel for it.*tersor lint"):
        built(program, trt=trt)


def test_why_a_build_fails_is_said(small: Program, built: Built) -> None:
    trt = FakeTensorRT()
    trt.unbuildable = "out of\n device memory"
    with pytest.raises(BackendError, match="cannot build the model: out of device memory"):
        built(small, trt=trt)


def test_refitting_takes_new_weights(small: Program, built: Built) -> None:
    call, _, device = built(small, TensorRT(cache="none", refit=True))
    for _ in range(3):
        check(small, call, (torch.randn(3, 4),))
    torch.manual_seed(1)
    other = capture_module(nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval(), (torch.randn(2, 4),), ({0: BATCH},))
    call.refit(other)
    for _ in range(3):
        check(other, call, (torch.randn(3, 4),))
    assert device.captures == 2  # what was recorded with the old weights is gone
    another = capture_module(nn.Sequential(nn.Linear(4, 8), nn.Tanh()).eval(), (torch.randn(2, 4),), ({0: BATCH},))
    with pytest.raises(BackendError, match="do not fit the engine: another graph"):
        call.refit(another)


def test_an_engine_that_was_not_built_for_it_is_not_refitted(small: Program, built: Built) -> None:
    with pytest.raises(BackendError, match=r"cannot be refitted; build it with tensorrt\{refit=true\}"):
        built(small)[0].refit(small)


def test_a_stripped_engine_gets_its_weights_when_it_is_loaded(small: Program, built: Built) -> None:
    call, trt, _ = built(small, TensorRT(cache="none", strip=True))
    assert trt.called("Refitter.refit_cuda_engine") == [()]
    check(small, call, (torch.randn(3, 4),))


def test_layers_are_timed_one_by_one(program: Program, built: Built) -> None:
    call, trt, _ = built(program)
    layers = call.layers(example(2, 6))
    nodes = call.engine.engine._model.graph.node
    assert len(layers) == len({node.name for node in nodes})
    assert layers[0].ms == pytest.approx(0.25)
    assert layers[0].kind == f"{nodes[0].op_type} Float"
    assert trt.called("IBuilderConfig.profiling_verbosity")[0][0].name == "DETAILED"


def test_outputs_of_computed_shape(small: Program, built: Built) -> None:
    trt = FakeTensorRT()
    trt.data_dependent = {small.interface.output_names[0]}
    call, _, device = built(small, trt=trt)
    for batch in (2, 2, 2, 3):
        check(small, call, (torch.randn(batch, 4),))
    assert device.captures == 0 and device.waits >= 3


def test_memory_of_the_host_allows_no_graph(small: Program, built: Built) -> None:
    trt = FakeTensorRT()
    trt.host = {small.interface.input_names[0]}
    call, _, device = built(small, trt=trt)
    for _ in range(3):
        check(small, call, (torch.randn(2, 4),))
    assert device.captures == 0


def test_a_plan_of_another_version_is_refused() -> None:
    from tersor.backends._tensorrt_engine import Engine

    trt = FakeTensorRT()
    with pytest.raises(BackendError, match="cannot load the engine: the plan is of another version; build it again"):
        Engine(trt, api.logger(trt), b"something", Host())


def test_the_wrong_number_of_inputs(small: Program, built: Built) -> None:
    with pytest.raises(BackendError, match="takes 1 inputs, got 2"):
        built(small)[0](torch.randn(2, 4), torch.randn(2, 4))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """TensorRT and a device seem to be on this machine."""
    trt = FakeTensorRT()
    monkeypatch.setattr(api, "missing", lambda: None)
    monkeypatch.setattr(api, "load", lambda: trt)
    monkeypatch.setattr(tensorrt, "Cuda", Host)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Fake GPU")
    return trt


def test_optimize_checks_the_engine_and_reports_its_layers(here: FakeTensorRT, tmp_path: Path) -> None:
    torch.manual_seed(0)
    fast = tersor.optimize(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval(), (torch.randn(2, 4),), target="h100", seconds=0.02,
        backend="tensorrt{cache=none}", passes="canonicalize", progress=False,
    )  # fmt: skip
    assert fast.report.backend == "tensorrt"
    assert any(check.what.startswith("tensorrt against") and check.passed for check in fast.report.parity)
    assert fast.report.layers and "Layers" in fast.report.text()
    fast.save(tmp_path / "out")
    assert (tmp_path / "out" / "model.plan").exists()
    check(fast.program, tensorrt.load(tmp_path / "out" / "model.plan"), (torch.randn(2, 4),))
    with pytest.raises(BackendError, match="cannot be read"):
        tensorrt.load(tmp_path / "nothing.plan")


def test_the_installed_parser_is_asked_by_lint(here: FakeTensorRT, small: Program) -> None:
    here.refused = {"Relu": "not today"}
    findings = find_backend("tensorrt").lint(small, Target("cuda", "cuda"))
    assert [finding.problem for finding in findings if finding.fatal] == [
        "the installed TensorRT refuses Relu: not today"
    ]


def test_it_is_missing_here_with_the_remedy() -> None:
    reason = find_backend("tensorrt").missing()
    if reason is None:
        pytest.skip("TensorRT is installed")
    assert "install" in reason or "driver" in reason
    with pytest.raises(BackendError, match="cannot be used here"):
        tensorrt.load(Path("model.plan"))


def test_cpu_targets_are_refused(small: Program) -> None:
    with pytest.raises(BackendError, match="CUDA devices, not on 'cpu'"):
        find_backend("tensorrt").compile(small, Target("cpu", "cpu", 1))


@pytest.mark.tensorrt
@pytest.mark.parametrize("graphs", [True, False])
def test_on_a_device(program: Program, graphs: bool) -> None:
    problem = api.missing()
    if problem:
        pytest.skip(problem)
    call = TensorRT(graphs=graphs).compile(program, Target("cuda", "cuda"))
    for sizes in ((2, 6), (3, 9), (1, 1), (2, 6), (2, 6)):
        check(program, call, example(*sizes))
        moved = tuple(value.cuda() for value in example(*sizes))
        assert all(value.is_cuda for value in call(*moved))
    assert call.layers(example(2, 6))


@pytest.mark.tensorrt
@pytest.mark.parametrize("name", ["zoo:digits-cnn", "zoo:digits-vit"])
@pytest.mark.parametrize(
    "passes",
    ["canonicalize", "canonicalize,cast{dtype=float16;backend=tensorrt}", "canonicalize,quantize{backend=tensorrt}"],
)
def test_zoo_models_on_a_device(name: str, passes: str, tmp_path: Path) -> None:
    problem = api.missing()
    if problem:
        pytest.skip(problem)
    fast = tersor.optimize(name, backend="tensorrt", target="cuda", passes=passes, budget=0.02, progress=False)
    assert fast.report.backend == "tensorrt" and fast.report.layers
    assert not any(item.fatal for item in fast.backend.lint(fast.program, Target("cuda", "cuda")))
    fast.save(tmp_path / "out")
    assert tensorrt.load(tmp_path / "out" / "model.plan")(*fast.program.inputs)
