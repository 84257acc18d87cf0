"""Typing errors: each is one line with the nearest name, and ends in exit code 2, before any work."""

import pytest

ALWAYS = ["optimize", "zoo:digits-cnn", "-o", "out.onnx"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optmize"], "did you mean 'optimize'?"),
        ([*ALWAYS, "--tagret", "cpu"], "did you mean '--target'?"),
        ([*ALWAYS, "--backend", "onnxruntim"], "did you mean 'onnxruntime'?"),
        ([*ALWAYS, "--target", "cp"], "did you mean 'cpu'?"),
        ([*ALWAYS, "--passes", "canonicalise"], "did you mean 'canonicalize'?"),
        ([*ALWAYS, "--passes", "canonicalize{nothing=1}"], "has no option 'nothing=1'"),
        ([*ALWAYS, "--budget", "much"], "wanted a share"),
        ([*ALWAYS, "--budget", "101%"], "wanted a share"),
        ([*ALWAYS, "--dim", "batch"], "wanted NAME=SIZE"),
        ([*ALWAYS, "--dim", "batch=0"], "positive size"),
        ([*ALWAYS, "--seed", "x"], "--seed"),
        ([*ALWAYS, "--opset", "3"], "--opset"),
        ([*ALWAYS, "--report", "report.pdf"], ".html, .json, .txt"),
        (["optimize", "zoo:digits-cnn"], "add -o OUT.onnx"),
        (["optimize", "zoo:digits-cnn", "-o", "out.pt"], "end it in .onnx"),
        (["optimize"], "missing argument"),
        (["inspect", "zoo:digits-cn"], "did you mean zoo:digits-cnn"),
        (["passes", "canonicalise"], "did you mean 'canonicalize'?"),
        (["bisect", "zoo:digits-cnn"], "--passes"),
        (["bench", "zoo:digits-cnn", "zoo:digits-cnn"], "named twice"),
        (["bench", "zoo:digits-cnn", "--backend", "openvin"], "did you mean 'openvino'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_typing_error(tersor, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = tersor(*arguments)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert said.lower() in err.lower()
    assert out == ""
    assert list(tmp_path.iterdir()) == []
