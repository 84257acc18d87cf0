"""Which contestants a program is handed to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tersor
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
        assert any("one thread is faster than" in note for note in fast.report.notes)
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
