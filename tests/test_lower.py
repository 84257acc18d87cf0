"""Which contestants a program is handed to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import tersor
from tersor.backends.eager import Eager
from tersor.context import Context
from tersor.errors import BackendError
from tersor.lower import _on_fewer_threads
from tersor.measure import Ratio
from tersor.program import Program
from tersor.report.model import Report, Timing
from tersor.rewrite import insert_call, insert_weight
from tersor.rewrite_values import key
from tersor.target import Target


@pytest.fixture(autouse=True)
def _two_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tersor.lower.backend_names", lambda: ["eager", "onnxruntime"])


def timed(model: nn.Module, threads: int) -> set[str]:
    fast = tersor.optimize(
        model.eval(), (torch.rand(2, 512),), passes="canonicalize", target=Target("cpu", "cpu", threads), seconds=0.1,
        progress=False,
    )  # fmt: skip
    if fast.report.kept.endswith("1 thread"):
        assert any("one thread is as fast as" in note for note in fast.report.notes)
    with torch.no_grad():
        torch.testing.assert_close(fast(torch.ones(2, 512)), model(torch.ones(2, 512)), rtol=1e-4, atol=1e-4)
    return {timing.name for timing in fast.report.timings}


def test_small_programs_are_tried_on_one_thread_too() -> None:
    assert "onnxruntime, 1 thread" in timed(nn.Linear(512, 8), 2)


def test_a_backend_that_is_not_installed_is_named_and_the_fastest_of_the_others_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tersor.backends.onnxruntime import OnnxRuntime

    monkeypatch.setattr(OnnxRuntime, "missing", lambda self: "not here")
    fast = tersor.optimize(
        nn.Linear(8, 8).eval(), (torch.rand(2, 8),), passes="canonicalize", target=Target("cpu", "cpu", 1), seconds=0.1,
        progress=False,
    )  # fmt: skip
    assert fast.report.backend == "eager"
    assert "backend onnxruntime was not tried: not here" in fast.report.notes


@pytest.mark.parametrize(("width", "threads"), [(8, 1), (60_000, 2)])
def test_large_ones_and_single_cores_are_not(width: int, threads: int) -> None:
    assert timed(nn.Linear(512, width), threads) == {"eager", "onnxruntime", "eager (original)"}


@dataclass(frozen=True)
class Slow:
    """A lossy pass that costs time: products with the identity."""

    exact: ClassVar[bool] = False

    def __call__(self, program: Program, context: Context) -> None:
        node = next(node for node in program.nodes if key(node) == "linear")
        if not context.take(node, "slowed down"):
            return
        readers, made = list(node.users), node
        eye = insert_weight(program, node, "eye", torch.eye(64))
        for _ in range(200):
            made = insert_call(readers[0], torch.ops.aten.matmul.default, (made, eye))
        for reader in readers:
            reader.replace_input_with(node, made)
        program.changed()


def test_a_lossy_pass_that_costs_time_is_not_kept_and_the_exact_ones_before_it_are() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64)).eval()
    fast = tersor.optimize(
        model, (torch.rand(8, 64),), passes=["fold-batch-norm", Slow()], backend="eager", budget=1.0, recover="none",
        target=Target("cpu", "cpu", 1), seconds=0.1, progress=False,
    )  # fmt: skip
    assert [step.status for step in fast.report.steps][:2] == ["kept", "kept"]
    assert {"eager (original)", "eager (exact passes only)"} <= {timing.name for timing in fast.report.timings}
    assert fast.report.kept in ("eager (original)", "eager (exact passes only)")
    assert any("does not pay on eager" in note for note in fast.report.notes)
    assert not any(key(node) == "matmul" for node in fast.program.nodes)


def test_where_no_backend_takes_the_rewrite_what_was_before_the_lossy_passes_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled = Eager.compile

    def compile(backend: Eager, program: Program, target: Target) -> Any:
        if any(key(node) == "matmul" for node in program.nodes):
            raise BackendError("it knows no matmul")
        return compiled(backend, program, target)

    monkeypatch.setattr(Eager, "compile", compile)
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64)).eval()
    fast = tersor.optimize(
        model, (torch.rand(8, 64),), passes=["fold-batch-norm", Slow()], backend="eager", budget=1.0, recover="none",
        target=Target("cpu", "cpu", 1), seconds=0, progress=False,
    )  # fmt: skip
    assert fast.report.kept == "eager (exact passes only)"
    assert any("knows no matmul" in note for note in fast.report.notes)
    assert not any(key(node) == "batch_norm" for node in fast.program.nodes)


def test_two_that_are_close_are_timed_again_and_the_report_says_what_that_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tersor.lower.CLOSE", 1e9)
    monkeypatch.setattr("tersor.lower.paired", lambda *_, **__: Ratio(0.9, 0.85, 0.95, 9))
    fast = tersor.optimize(
        nn.Linear(8, 8).eval(), (torch.rand(2, 8),), passes="dead-code", target=Target("cpu", "cpu", 1), seconds=0.1,
        progress=False,
    )  # fmt: skip
    medians = {timing.name: timing.median_ms for timing in fast.report.timings}
    other = {"eager": "onnxruntime", "onnxruntime": "eager"}[fast.report.kept]
    assert medians[fast.report.kept] > medians[other]
    said = f"{fast.report.kept} takes 0.90 times as long as {other} where the two are timed in neighbouring turns"
    assert any(note.startswith(said) and "0.85 to 0.95" in note for note in fast.report.notes)


@pytest.mark.parametrize(
    ("alone", "kept"), [(1.04, "onnxruntime, 1 thread"), (1.2, "onnxruntime"), (None, "onnxruntime")]
)
def test_one_thread_is_preferred_where_it_takes_no_longer(alone: float | None, kept: str) -> None:
    report = Report("model", "exact", "cpu")
    report.timings = [Timing("onnxruntime", 1.0, 0.9, 1.4, 99)]
    if alone is not None:
        report.timings.append(Timing("onnxruntime, 1 thread", alone, alone, alone, 99))
    assert _on_fewer_threads("onnxruntime", report) == kept
    assert _on_fewer_threads("onnxruntime, 1 thread", report) == "onnxruntime, 1 thread"
