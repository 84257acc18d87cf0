"""Files that are no models, and outputs that cannot be written."""

import os
import random

import numpy as np
import pytest


def one_line(err):
    return err.startswith("error: ") and err.count("\n") == 1


CONTENTS = {
    "empty": b"",
    "random": random.Random(0).randbytes(4096),
    "text": b"hello, I am no model\n" * 20,
    "zip": b"PK\x03\x04" + bytes(100),
    "pickle": b"\x80\x04K\x01.",
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("command", ["inspect", "optimize"])
def test_not_a_model(tersor, tmp_path, kind, command):
    path = tmp_path / "model.onnx"
    path.write_bytes(CONTENTS[kind])
    more = ["-o", tmp_path / "out.onnx", "--quiet"] if command == "optimize" else []
    code, out, err = tersor(command, path, *more)
    assert code == 3, err
    assert one_line(err) and "model.onnx" in err
    assert out == ""
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == CONTENTS[kind]


def test_truncated(tersor, tiny):
    whole = tiny.read_bytes()
    tiny.write_bytes(whole[: len(whole) // 2])
    code, _, err = tersor("inspect", tiny)
    assert code == 3 and one_line(err)


def test_missing_file_and_folder(tersor, tmp_path):
    for path in (tmp_path / "none.onnx", tmp_path):
        code, _, err = tersor("inspect", path)
        assert code == 3 and one_line(err)


@pytest.mark.parametrize(("content", "code"), [(b"no archive", 3), (None, 5)])
def test_inputs_that_are_no_archive(tersor, tiny, tmp_path, content, code):
    path = tmp_path / "inputs.npz"
    if content is not None:
        path.write_bytes(content)
    got, _, err = tersor("inspect", tiny, "--inputs", path)
    assert got == code and one_line(err) and "numpy.savez" in err


def test_pickled_inputs_are_refused(tersor, tiny, tmp_path):
    path = tmp_path / "inputs.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    code, _, err = tersor("inspect", tiny, "--inputs", path)
    assert code == 3 and one_line(err)


def test_inputs_that_do_not_fit(tersor, tiny, tmp_path):
    path = tmp_path / "inputs.npz"
    np.savez(path, wrong=np.zeros((2, 4), dtype=np.float32))
    code, _, err = tersor("inspect", tiny, "--inputs", path)
    assert code == 5 and one_line(err)


def test_existing_output_is_refused_before_any_work(tersor, tmp_path):
    output = tmp_path / "out.onnx"
    output.write_text("precious")
    code, _, err = tersor("optimize", tmp_path / "missing.onnx", "-o", output)
    assert code == 10 and one_line(err) and "--force" in err
    assert output.read_text() == "precious"


def test_existing_report_is_refused(tersor, tiny, tmp_path):
    report = tmp_path / "report.json"
    report.write_text("precious")
    code, _, err = tersor("optimize", tiny, "-o", tmp_path / "out.onnx", "--report", report)
    assert code == 10 and one_line(err)
    assert report.read_text() == "precious"


def test_output_into_a_missing_folder(tersor, tiny, tmp_path):
    code, _, err = tersor("optimize", tiny, "-o", tmp_path / "no" / "out.onnx")
    assert code == 10 and one_line(err) and "create it first" in err


def test_output_into_a_read_only_folder(tersor, tiny, tmp_path, monkeypatch):
    # The superuser may write into any folder, so the answer of the system is given here.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    code, _, err = tersor("optimize", tiny, "-o", tmp_path / "out.onnx")
    assert code == 10 and one_line(err) and "cannot be written" in err


def test_input_is_never_the_output(tersor, tiny):
    before = tiny.read_bytes()
    code, _, err = tersor("optimize", tiny, "-o", tiny, "--force")
    assert code == 10 and one_line(err) and "input itself" in err
    assert tiny.read_bytes() == before


def test_failing_optimization_leaves_the_old_output(tersor, tmp_path):
    output, model = tmp_path / "out.onnx", tmp_path / "bad.onnx"
    output.write_text("precious")
    model.write_bytes(CONTENTS["random"])
    code, _, err = tersor("optimize", model, "-o", output, "--force", "--quiet")
    assert code == 3 and one_line(err)
    assert output.read_text() == "precious"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["bad.onnx", "out.onnx"]
