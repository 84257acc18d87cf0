"""Nodes without a torch function: through import and export as they were."""

from collections.abc import Callable

import numpy
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tersor.capture import load_onnx
from tersor.errors import ExportError
from tersor.export import save_onnx
from tersor.export.runtime import Session


def value(name: str, shape: list[int | str] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs, outputs, constants, opset, **extra) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(numpy.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **extra)


def branches() -> onnx.ModelProto:
    """A choice whose bodies read a value from outside; names inside clash with names outside."""
    then = helper.make_graph([helper.make_node("Mul", ["x", "two"], ["relu"])], "then", [], [value("relu", None)])
    other = helper.make_graph([helper.make_node("Add", ["x", "two"], ["sum"])], "other", [], [value("sum", None)])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["chosen"], then_branch=then, else_branch=other),
        helper.make_node("Relu", ["chosen"], ["z"]),
    ]
    constants = {"two": numpy.float32(2), "zero": numpy.float32(0)}
    return model(nodes, [value("x", ["batch size", 4])], [value("z", ["batch size", 4])], constants, 13)


def recurrence() -> onnx.ModelProto:
    random = numpy.random.RandomState(0)
    constants = {
        "W": random.randn(1, 20, 3).astype("f"),
        "R": random.randn(1, 20, 5).astype("f"),
        "B": random.randn(1, 40).astype("f"),
        "axis": numpy.array([1]),
    }
    nodes = [
        helper.make_node("LSTM", ["x", "W", "R", "B"], ["Y", "H", "C"], hidden_size=5),
        helper.make_node("Squeeze", ["Y", "axis"], ["squeezed"]),
        helper.make_node("Tanh", ["squeezed"], ["z"]),
    ]
    return model(nodes, [value("x", ["time", "batch", 3])], [value("z", ["time", "batch", 5])], constants, 14)


def loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [helper.make_node("Add", ["sum", "x"], ["more"]), helper.make_node("Identity", ["on"], ["still on"])],
        "body",
        [value("index", [], TensorProto.INT64), value("on", [], TensorProto.BOOL), value("sum", None)],
        [value("still on", [], TensorProto.BOOL), value("more", None)],
    )
    nodes = [helper.make_node("Loop", ["count", "yes", "x"], ["z"], body=body)]
    constants = {"count": numpy.array(3), "yes": numpy.array(True)}
    return model(nodes, [value("x", ["rows", 4])], [value("z", ["rows", 4])], constants, 11)


def contributed() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"]),
        helper.make_node("MurmurHash3", ["positive"], ["z"], domain="com.microsoft", positive=0),
    ]
    made = model(nodes, [value("x", ["rows", 4])], [value("z", ["rows", 4], TensorProto.INT32)], {}, 18)
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return made


@pytest.mark.parametrize(
    ("build", "kept"), [(branches, "If"), (recurrence, "LSTM"), (loop, "Loop"), (contributed, "MurmurHash3")]
)
def test_round_trip(build: Callable[[], onnx.ModelProto], kept: str, tmp_path):
    original = build()
    program = load_onnx(original)
    made = onnx.load(save_onnx(program, tmp_path / "model.onnx"))
    assert len(made.graph.node) <= len(original.graph.node)
    assert kept in [node.op_type for node in made.graph.node]
    assert [v.name for v in made.graph.input] == ["x"]
    assert [v.name for v in made.graph.output] == ["z"]
    assert made.graph.input[0].type == original.graph.input[0].type
    reference = onnxruntime.InferenceSession(original.SerializeToString(), providers=["CPUExecutionProvider"])
    session = Session(tmp_path / "model.onnx")
    for rows in (1, 3):
        x = torch.randn(rows, *(2, 3) if build is recurrence else (4,))
        (wanted,) = reference.run(None, {"x": x.numpy()})
        torch.testing.assert_close(session.run((x,))[0], torch.from_numpy(wanted))


def test_old_bodies_are_raised_to_the_opset_of_the_file(tmp_path):
    program = load_onnx(choice([helper.make_node("Upsample", ["x", "numbers"], ["then"], mode="nearest")], 9))
    made = onnx.load(save_onnx(program, tmp_path / "model.onnx"))
    (body,) = [a.g for node in made.graph.node for a in node.attribute if a.name == "then_branch"]
    assert "Resize" in [node.op_type for node in body.node]
    x = torch.randn(2, 4, 2, 2)
    (doubled,) = Session(tmp_path / "model.onnx").run((x, torch.tensor(True)))
    torch.testing.assert_close(doubled, torch.nn.functional.interpolate(x, scale_factor=2))


def test_bodies_that_cannot_be_raised_are_an_error(tmp_path, monkeypatch):
    program = load_onnx(choice([helper.make_node("Upsample", ["x", "numbers"], ["then"], mode="nearest")], 9))

    def refuse(*_: object) -> onnx.ModelProto:
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    with pytest.raises(ExportError, match=r"Upsample is kept as the file has it.*keep the original file"):
        save_onnx(program, tmp_path / "model.onnx")


def choice(nodes: list[onnx.NodeProto], opset: int) -> onnx.ModelProto:
    then = helper.make_graph(nodes, "then", [], [value("then", None)])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "other", [], [value("y", None)])
    chosen = helper.make_node("If", ["flag"], ["out"], then_branch=then, else_branch=other)
    inputs = [value("x", ["n", 4, 2, 2]), value("flag", [], TensorProto.BOOL)]
    constants = {"numbers": numpy.array([1, 1, 2, 2], dtype="f")}
    return model([chosen], inputs, [value("out", None)], constants, opset)
