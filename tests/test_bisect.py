"""Bisecting a quantized pipeline: the one layer that integers break is named, from Python and from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tersor.bisect import bisect
from tersor.cli import main
from tersor.export import save_onnx
from tersor.program import Program
from tersor.spec import parse
from tests.passes.harness import captured
from tests.quant.test_simulate import Net

PIPELINE = "canonicalize,quantize{noise=1;anyway=true}"


def net(broken: bool) -> Program:
    torch.manual_seed(0)
    return captured(Net(broken), torch.rand(4, 3, 8, 8))


def test_the_broken_layer_is_named() -> None:
    culprit = bisect(net(True), parse(PIPELINE), budget=0.2)
    assert culprit is not None and culprit.site is not None
    assert (culprit.spec, culprit.site.node) == ("quantize{noise=1.0;anyway=True}", "linear_1")
    assert "agreement falls" in culprit.problem


def test_a_sound_pipeline_has_no_culprit() -> None:
    assert bisect(net(False), parse(PIPELINE), budget=0.2) is None
    assert bisect(net(True), parse(PIPELINE)) is None, "without a budget a loss is no fault"


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_onnx(net(True), tmp_path / "net.onnx")
    code = main(["bisect", str(path), "--passes", PIPELINE, "--budget", "20%"])
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert code == 7 and "agreement falls" in lines["problem"]
    assert lines["site"].startswith("linear_1"), lines
