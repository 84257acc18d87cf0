"""``tersor optimize`` with a budget or a latency: what it takes, refuses, and tells."""

import json

import numpy as np
import pytest

PLAN = ("--budget", "50%", "--backend", "onnxruntime", "--seconds", "0")

METRIC = """
import torch

def close(model):
    x = torch.arange(12.0).reshape(3, 4)
    made = model(x)
    return 1.0 if made[0].isfinite().all() else 0.0

def broken(model):
    return float("nan")
"""


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    (tmp_path / "judge.py").write_text(METRIC)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_plan_is_made_written_and_told(tersor, tiny, tmp_path):
    np.savez("batch.npz", x=np.random.default_rng(0).standard_normal((8, 4), dtype=np.float32))
    study = tmp_path / "plans.sqlite3"
    flags = ("--metric", "judge:close", "--calibration", "batch.npz", "--study", study, "--json")
    code, out, err = tersor("optimize", tiny, "-o", "out.onnx", "--latency", "90%", *flags, *PLAN)
    assert code == 0, err
    plan = json.loads(out)["plan"]
    assert plan["wanted"] == 0.9 and plan["budget"] == 0.5 and plan["study"] == str(study)
    assert plan["trials"] and "--metric judge:close" in plan["command"] and "--calibration batch.npz" in plan["command"]
    assert (tmp_path / "out.onnx").exists() and plan["chosen"] == "", "there is nothing to prune in this model"
    code, out, _ = tersor("optimize", tiny, "-o", "again.onnx", "--latency", "90%", "--resume", *flags, *PLAN)
    assert code == 0 and json.loads(out)["plan"]["chosen"] == plan["chosen"]


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (("--latency", "soon"), 2, "wanted milliseconds or a share"),
        (("--latency", "5ms", "--passes", "canonicalize"), 2, "leave it nothing to choose"),
        (("--resume", "--budget", "0%"), 2, "there is nothing to search"),
        (("--metric", "judge"), 2, "wanted module:function"),
        (("--metric", "judge:missing"), 2, "cannot be loaded: AttributeError"),
        (("--metric", "nowhere:close"), 2, "ModuleNotFoundError"),
        (("--metric", "judge:broken"), 11, "the metric gave nan"),
        (("--calibration", "missing/"), 5, "there is no calibration data at 'missing'"),
        (("--calibration", "judge.py"), 5, "none of its 1 files"),
        (("--pixels", "rgb", "--calibration", "judge.py"), 2, "wanted one of imagenet"),
        (("--study", "nonsense://x"), 2, "cannot be opened"),
        (("--target", "h1000"), 2, "did you mean 'h100'"),
        (("--dry-run",), 2, "a plan needs trials"),
    ],
)
def test_what_does_not_fit_is_one_line(tersor, tiny, tmp_path, flags, code, told):
    got, out, err = tersor("optimize", tiny, "-o", "out.onnx", "--quiet", *PLAN, *flags)
    assert (got, out, err.count("\n")) == (code, "", 1) and told in err, err
    assert not (tmp_path / "out.onnx").exists()
