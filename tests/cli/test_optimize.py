"""``tersor optimize``: what it writes, prints, and leaves alone."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from tersor.report.model import Report

QUICK = ("--backend", "onnxruntime", "--seconds", "0", "--passes", "canonicalize")


def run_onnx(path, x):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})


def test_writes_a_checked_model_reports_and_json_alone_on_standard_output(tersor, tiny, tmp_path):
    output = tmp_path / "out.onnx"
    output.write_text("old")
    reports = [tmp_path / f"report{kind}" for kind in (".html", ".json", ".txt")]
    flags = [part for report in reports for part in ("--report", report)]
    code, out, err = tersor("optimize", tiny, "-o", output, "--force", "--json", "--opset", "20", *flags, *QUICK)
    assert code == 0, err
    assert "capture" in err
    assert {entry.domain: entry.version for entry in onnx.load(output).opset_import}[""] == 20
    x = np.random.default_rng(0).standard_normal((5, 4), dtype=np.float32)
    np.testing.assert_allclose(run_onnx(output, x), run_onnx(tiny, x), rtol=1e-6)
    printed = json.loads(out)
    assert printed == json.loads(reports[1].read_text())
    assert printed["pipeline"] == "canonicalize" and printed["backend"] == "onnxruntime"
    assert printed["command"].startswith("tersor optimize ") and "--opset 20" in printed["command"]
    assert reports[0].read_text().startswith("<!doctype html>")
    assert "Reproduce" in reports[2].read_text()
    assert {item.name for item in tmp_path.iterdir()} == {"tiny.onnx", "out.onnx", *(path.name for path in reports)}


def test_quiet_writes_a_folder_and_says_nothing(tersor, tiny, tmp_path):
    folder = tmp_path / "deploy"
    assert tersor("optimize", tiny, "-o", folder, "--quiet", *QUICK) == (0, "", "")
    assert {"model.onnx", "report.json", "report.html"} <= {item.name for item in folder.iterdir()}
    code, _, err = tersor("optimize", tiny, "-o", folder, "--quiet", *QUICK)
    assert code == 10 and "already exists" in err


def test_dry_run_writes_no_model(tersor, tiny, tmp_path):
    output = tmp_path / "out.onnx"
    code, out, _ = tersor("optimize", tiny, "--dry-run", "-o", output, "--passes", "canonicalize")
    assert code == 0 and "Passes" in out
    assert list(tmp_path.iterdir()) == [tiny]


def test_example_sizes_and_inputs(tersor, tiny, tmp_path):
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, x=np.ones((6, 4), dtype=np.float32))
    for flags in (("--dim", "batch=6"), ("--inputs", inputs)):
        code, out, err = tersor("optimize", tiny, "--dry-run", "--json", "--passes", "canonicalize", *flags)
        assert code == 0, err
        assert any(check["binding"] == {"batch": 6} for check in json.loads(out)["parity"])


@pytest.mark.parametrize("stage", ["optimize", "write"])
def test_interrupt_leaves_nothing(tersor, tiny, tmp_path, monkeypatch, stage):
    from tersor import api
    from tersor.artefact import staged

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    class HalfWritten:
        report = Report("tiny.onnx", "", "cpu")

        def to_onnx(self, path, opset):
            with staged(path) as folder:
                (folder / path.name).write_text("half")
                interrupted()

    monkeypatch.setattr(api, "optimize", interrupted if stage == "optimize" else lambda *args, **kwargs: HalfWritten())
    code, out, err = tersor("optimize", tiny, "-o", tmp_path / "out.onnx", "--quiet")
    assert code == 130 and err.count("\n") == 1 and out == ""
    assert list(tmp_path.iterdir()) == [tiny]
