"""What was captured is compared with the model: where they differ, the capture is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from tersor.capture import load, sources
from tersor.capture.exported import from_exported
from tersor.errors import CaptureError
from tersor.program import Program
from tests.capture.onnx.build import model, value

aten = torch.ops.aten


class OtherWhenExported(nn.Module):
    """Models branch on whether they are traced, as those of transformers do for masks."""

    def __init__(self, right: Callable[..., Tensor], traced: Callable[..., Tensor]) -> None:
        super().__init__()
        self.right, self.traced = right, traced

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return (self.traced if torch.compiler.is_exporting() else self.right)(x, mask)


def _capture(traced: Callable[..., Tensor]) -> Program:
    def right(x: Tensor, mask: Tensor) -> Tensor:
        return x * mask * x.shape[1]

    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    inputs = (torch.randn(3, 5), torch.ones(3, 5))
    return load(OtherWhenExported(right, traced).eval(), inputs, {"x": axes, "mask": axes})


@pytest.mark.parametrize(
    ("traced", "where"),
    [
        (lambda x, mask: x * mask * x.shape[1] * 1.01, "differs by"),
        (lambda x, mask: x * mask * 5, "at batch=4, length=6"),
        (lambda x, mask: x * x.shape[1], "at batch=3, length=5 with masks that hide something"),
    ],
    ids=["at the example", "at other sizes", "where a mask hides something"],
)
def test_another_function_is_refused(traced: Callable[..., Tensor], where: str) -> None:
    with pytest.raises(CaptureError, match=f"is not the model.*{where}"):
        _capture(traced)


def test_the_same_function_in_other_words_is_taken() -> None:
    program = _capture(lambda x, mask: mask * x.shape[1] * x)
    assert [str(dimension.name) for dimension in program.dimensions.values()] == ["batch", "length"]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda x, many: (x, x + 1) if many else (x,), "returns 2 values.*captured returns 1"),
        (lambda x, many: (x, "many" if many else "few"), "'many', and was 'few' at capture"),
        (lambda x, many: (x, None if many else 3), "None, and was 3 at capture"),
        (lambda x, many: (x, x[0, 0] if many else None), "and was None at capture"),
    ],
    ids=["another number of outputs", "another text", "nothing instead of a number", "a tensor instead of nothing"],
)
def test_a_result_that_is_built_otherwise_is_refused(result: Callable[..., Any], message: str) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return result(x * 2, not torch.compiler.is_exporting() and x.shape[1] > 5)

    with pytest.raises(CaptureError, match=message):
        load(Branching().eval(), (torch.randn(3, 5),), {"x": {1: torch.export.Dim("length")}})


def test_sizes_that_the_model_refuses_are_not_asked_for() -> None:
    class Short(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_exporting() and x.shape[1] > 5:
                raise ValueError("too long")
            return x + 1

    assert load(Short().eval(), (torch.randn(3, 5),), {"x": {1: torch.export.Dim("length")}}).dimensions


def test_an_exported_program_is_compared_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from tersor.capture import torch as module

    exported = torch.export.export(nn.Sequential(nn.ReLU()).eval(), (torch.randn(3, 5),))
    assert load(exported).inputs[0].shape == (3, 5)
    monkeypatch.setattr(module, "from_exported", _tampered)
    with pytest.raises(CaptureError, match="is not the model"):
        load(exported)


def test_a_program_made_of_a_file_is_compared_with_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", ["n", 3])], [value("y", ["n", 3])])
    assert sources.load_onnx(proto).dimensions
    monkeypatch.setattr("tersor.capture.exported.from_exported", _tampered)
    with pytest.raises(CaptureError, match="'y' differs by"):
        sources.load_onnx(proto)


def test_a_program_that_does_not_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", ["n", 3])], [value("y", ["n", 3])])
    monkeypatch.setattr("tersor.capture.exported.from_exported", partial(_tampered, target=aten.t.default, rest=(1, 2)))
    with pytest.raises(CaptureError, match="does not run on the example inputs"):
        sources.load_onnx(proto)


def _tampered(*args: Any, target: Any = aten.neg.default, rest: tuple[int, ...] = (), **kwargs: Any) -> Program:
    program = from_exported(*args, **kwargs)
    for node in program.nodes:
        if node.target is aten.relu.default:
            node.target, node.args = target, (*node.args, *rest)
    return program
