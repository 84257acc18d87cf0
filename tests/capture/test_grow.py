"""Examples of batch 1 with a dynamic batch: captured with a larger one, checked and timed as given."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper

import tersor
from tersor.capture import load


class Pooled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(6, 4)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.layer(x).mean(1) * scale


def test_a_module_with_a_batch_of_one_stays_dynamic() -> None:
    torch.manual_seed(0)
    model, batch = Pooled().eval(), torch.export.Dim("batch")
    inputs = (torch.randn(1, 5, 6), torch.randn(1, 4))
    fast = tersor.optimize(
        model, inputs, dynamic=({0: batch}, {0: batch}), backend="onnxruntime", progress=False, seconds=0.01
    )
    for count in (1, 2, 7):
        given = (torch.randn(count, 5, 6), torch.randn(count, 4))
        torch.testing.assert_close(fast(*given), model(*given))


def test_capture_keeps_what_was_given() -> None:
    model, batch = Pooled().eval(), torch.export.Dim("batch")
    inputs = (torch.randn(1, 5, 6), torch.randn(1, 4))
    program = load(model, inputs, ({0: batch}, {0: batch}))
    assert [tuple(value.shape) for value in program.inputs] == [(2, 5, 6), (2, 4)]
    assert program.example is program.given
    assert program.given is not None and all(a is b for a, b in zip(program.given, inputs, strict=True))
    assert program.clone().given is program.given


def test_other_sizes_need_not_grow() -> None:
    model, batch = Pooled().eval(), torch.export.Dim("batch")
    program = load(model, (torch.randn(3, 5, 6), torch.randn(3, 4)), ({0: batch}, {0: batch}))
    assert program.given is None and program.example is program.inputs


def file_with_dynamic_batch(path: Path) -> Path:
    node = helper.make_node("Softmax", ["x"], ["y"], axis=-1)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "length"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, "length"])
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def test_a_file_with_a_batch_of_one_stays_dynamic(tmp_path: Path) -> None:
    path = file_with_dynamic_batch(tmp_path / "m.onnx")
    given = torch.randn(1, 3, 2)
    program = load(path, (given,))
    assert tuple(program.inputs[0].shape) == (3, 3, 2)  # no size that another dynamic axis has
    fast = tersor.optimize(str(path), (given,), backend="onnxruntime", progress=False, seconds=0)
    assert fast.program is not None
    for shape in ((1, 3, 2), (4, 3, 7)):
        x = torch.randn(*shape)
        torch.testing.assert_close(fast(x)[0], x.softmax(-1))
