"""Every pass on every zoo model, from PyTorch and from ONNX: kept or unchanged, and nothing left on a second run."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tersor.capture import load
from tersor.export import save_onnx
from tersor.models_zoo.catalog import names
from tersor.passes import EXACT
from tersor.pipeline import Lossy, Reference, run
from tersor.program import Program
from tersor.quality import Data, Quality
from tersor.spec import parse, pass_class, pass_names

QUICK = {"zoo:digits-cnn", "zoo:digits-vit"}
MODELS = [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in names("zoo")]


captured = cache(load)
"""One capture for all passes: the pipeline works on copies."""


def check(program: Program) -> None:
    reference = Reference.of(program)
    outcome = run(program, parse(EXACT), reference)
    assert [(step.spec, step.reason) for step in outcome.steps if step.status == "dropped"] == []
    again = run(outcome.program, parse(EXACT), reference)
    assert [(step.spec, step.sites) for step in again.steps if step.status != "unchanged"] == []
    operators = [sum(node.op == "call_function" for node in p.nodes) for p in (program, outcome.program)]
    assert operators[1] <= operators[0]


@pytest.mark.parametrize("name", MODELS)
def test_from_pytorch(name: str) -> None:
    check(captured(name))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in names("zoo")])
def test_from_onnx(name: str, tmp_path: Path) -> None:
    check(load(save_onnx(load(name), tmp_path / "model.onnx")))


LOSSY = [name for name in pass_names() if not pass_class(name).exact]


def check_lossy(program: Program, name: str) -> None:
    """Under a budget of everything a lossy pass is kept, or finds nothing to do and says why for each candidate."""
    data = Data.split(program.inputs, ())
    lossy = Lossy(Quality.of(program, None, 1.0, data), data)
    outcome = run(program, parse(f"canonicalize,{name},canonicalize,dead-code"), lossy=lossy)
    assert [(step.spec, step.reason) for step in outcome.steps if step.status == "dropped"] == []
    step = next(step for step in outcome.steps if not step.exact)
    assert step.status == "kept" or step.skipped or not step.sites
    assert all(parity.passed for parity in step.parity)


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("model", MODELS)
def test_lossy_from_pytorch(name: str, model: str) -> None:
    check_lossy(captured(model), name)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "prune" else [pytest.mark.slow]) for n in LOSSY])
@pytest.mark.parametrize("model", MODELS)
def test_lossy_from_onnx(name: str, model: str, tmp_path: Path) -> None:
    check_lossy(load(save_onnx(load(model), tmp_path / "model.onnx")), name)
