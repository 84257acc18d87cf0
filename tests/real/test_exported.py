"""What torch's two ONNX exporters write, through the command line: same interface, same numbers, no more nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

import tersor
from tersor.models_zoo import ZooEntry, load
from tests.real import command, compare, exported
from tests.real.packages import needs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def assert_same(entry: ZooEntry, source: Path, output: Path) -> None:
    made = command.optimize(source, output)
    assert not made.verbatim and not made.dropped
    assert compare.interface_problem(source, made.path) == ""
    assert compare.nodes(made.path) <= compare.nodes(source)
    assert compare.largest_difference(source, made.path, exported.feeds(entry, source)) < compare.TOLERANCE


@needs("timm")
@pytest.mark.parametrize("exporter", exported.EXPORTERS)
@pytest.mark.parametrize("name", exported.TIMM)
def test_timm(name: str, exporter: str, tmp_path: Path) -> None:
    entry = load(f"timm:{name}")
    source = exported.write(entry, tmp_path / "theirs.onnx", exporter)
    assert_same(entry, source, tmp_path / "ours.onnx")


@needs("transformers")
@pytest.mark.parametrize("name", [name for name in exported.HF if name not in exported.NOT_EXPORTABLE])
def test_transformers(name: str, tmp_path: Path) -> None:
    entry = load(f"hf:{name}")
    source = exported.write(entry, tmp_path / "theirs.onnx")
    assert_same(entry, source, tmp_path / "ours.onnx")


@needs("transformers")
@pytest.mark.parametrize("name", exported.NOT_EXPORTABLE)
def test_what_torch_cannot_write(name: str, tmp_path: Path) -> None:
    entry = load(f"hf:{name}")
    fast = tersor.optimize(
        entry.model, entry.inputs, dynamic=entry.dynamic, backend="onnxruntime", progress=False, seconds=0.0
    )
    source = fast.to_onnx(tmp_path / "ours.onnx")
    assert exported.against_eager(entry, source, exported.feeds(entry, source)) < compare.TOLERANCE
    assert_same(entry, source, tmp_path / "again.onnx")
