"""A wrong operator function is found at import, by comparing with ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from tersor.capture.onnx import registry
from tersor.capture.onnx.importer import import_onnx
from tersor.errors import CaptureError
from tests.capture.onnx.build import model, value


def test_wrong_function_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = registry.Operator(lambda node, x: torch.relu(x) + 0.01, 1)
    monkeypatch.setitem(registry._TENSOR, ("", "Relu"), [wrong])
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", ["n", 3])], [value("y", ["n", 3])])
    with pytest.raises(CaptureError, match=r"'y' differs by 0\.01"):
        import_onnx(proto)


def test_wrong_shape_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = registry.Operator(lambda node, x: x[None], 1)
    monkeypatch.setitem(registry._TENSOR, ("", "Relu"), [wrong])
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", ["n", 3])], [value("y", ["n", 3])])
    with pytest.raises(CaptureError, match=r"\[1, 2, 3\] in PyTorch and torch.float32\[2, 3\]"):
        import_onnx(proto)


def test_a_wrong_mask_is_found_though_the_made_up_one_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = registry.Operator(lambda node, mask, x, low: x, 1)
    monkeypatch.setitem(registry._TENSOR, ("", "Where"), [wrong])
    nodes = [helper.make_node("Where", ["mask", "x", "low"], ["y"])]
    inputs = [value("mask", ["n", 4], TensorProto.BOOL), value("x", ["n", 4])]
    proto = model(nodes, inputs, [value("y", ["n", 4])], {"low": np.array(-5, np.float32)})
    with pytest.raises(CaptureError, match="'y' differs by"):
        import_onnx(proto)


def test_what_is_right_at_the_example_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = registry.Operator(lambda node, x: torch.relu(x) * (1 if x.shape[0] == 2 else 1.01), 1)
    monkeypatch.setitem(registry._TENSOR, ("", "Relu"), [wrong])
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", ["n", 3])], [value("y", ["n", 3])])
    with pytest.raises(CaptureError, match="'y' differs by"):
        import_onnx(proto)
