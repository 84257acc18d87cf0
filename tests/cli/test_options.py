"""Text of options becomes values, and unfinished words become names."""

from tersor.cli.options import _complete_backend, _complete_passes


def test_backends_are_completed():
    assert _complete_backend("onnx") == ["onnxruntime", "onnxruntime_tensorrt"]
    assert "auto" in _complete_backend("")


def test_the_last_pass_of_a_pipeline_is_completed():
    assert _complete_passes("canon") == ["canonicalize"]
    assert "dead-code,canonicalize" in _complete_passes("dead-code,can")
