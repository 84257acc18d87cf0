"""Nodes without a torch function run in ONNX Runtime, keep their content, and keep known sizes dynamic."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch.export import Dim

from tersor.capture.onnx.importer import Imported, import_onnx
from tersor.capture.onnx.opaque import opaque_node
from tersor.errors import CaptureError
from tests.capture.onnx.build import model, run, value


def check(proto: onnx.ModelProto, *bindings: dict[str, torch.Tensor]) -> Imported:
    imported = import_onnx(proto)
    module = imported.exported.module(check_guards=False)
    for inputs in (imported.example, *bindings):
        outputs = module(*(inputs[name] for name in imported.input_names))
        for got, wanted in zip(outputs, run(proto, inputs), strict=True):
            torch.testing.assert_close(got, torch.from_numpy(wanted), rtol=1e-5, atol=1e-6)
    return imported


def shapes(imported: Imported) -> list[list[str]]:
    output = imported.exported.graph.output_node().args[0]
    return [[str(size) for size in node.meta["val"].shape] for node in output]


def lstm() -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    weights = {
        "w": generator.normal(size=(2, 32, 6)).astype(np.float32),
        "r": generator.normal(size=(2, 32, 8)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "w", "r"], ["h", "last"], name="rnn", hidden_size=8, direction="bidirectional"),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    return model(nodes, [value("x", ["batch", "time", 6])], [value("y", None), value("last", None)], weights)


def test_lstm_keeps_batch_and_time_dynamic() -> None:
    imported = check(lstm(), {"x": torch.randn(5, 3, 6)})
    (node,) = imported.opaque.values()
    assert node.nodes[0].name == "rnn"
    assert node.inputs == ("t", "w", "r")
    assert node.outputs == ("h", "last")
    assert "LSTM has no torch function" in node.reason
    assert opaque_node(node.key) is node
    (time, _, batch, _), (_, batch_again, _) = shapes(imported)
    assert batch == batch_again
    assert not time.isdigit() and not batch.isdigit() and time != batch
    assert not time.startswith("u")


def quantized_convolution(**attributes: object) -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    constants = {
        "scale": np.array(0.05, np.float32), "zero": np.array(120, np.uint8),
        "w": generator.integers(-99, 99, (3, 3, 3, 3)).astype(np.int8),
        "w_scale": np.full(3, 0.01, np.float32), "w_zero": np.zeros(3, np.int8),
    }  # fmt: skip
    inputs = ["q", "scale", "zero", "w", "w_scale", "w_zero", "scale", "zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("QLinearConv", inputs, ["c"], **attributes),  # type: ignore[arg-type]
        helper.make_node("DequantizeLinear", ["c", "scale", "zero"], ["d"]),
        helper.make_node("Add", ["d", "x"], ["y"]),
    ]
    return model(nodes, [value("x", ["n", 3, "h", "w"])], [value("y", ["n", 3, "h", "w"])], constants)  # type: ignore[arg-type]


@pytest.mark.parametrize("attributes", [{"pads": [1, 1, 1, 1]}, {"auto_pad": "SAME_UPPER"}])
def test_a_convolution_of_integers_stays_one_node_of_known_size(attributes: dict[str, object]) -> None:
    imported = check(quantized_convolution(**attributes), {"x": torch.randn(1, 3, 9, 4)})
    (node,) = imported.opaque.values()
    assert node.nodes[0].op_type == "QLinearConv"
    (sizes,) = shapes(imported)
    assert len({*sizes}) == 4 and not any(size.startswith("u") for size in sizes)


def test_dynamically_quantized_products_stay_as_they_are() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["p"]),
        helper.make_node("Cast", ["p"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    weight = np.random.default_rng(0).integers(-99, 99, (16, 8)).astype(np.int8)
    proto = model(nodes, [value("x", ["n", "t", 16])], [value("y", ["n", "t", 8])], {"w": weight})
    imported = check(proto, {"x": torch.randn(2, 5, 16)})
    assert [node.nodes[0].op_type for node in imported.opaque.values()] == ["DynamicQuantizeLinear", "MatMulInteger"]
    ((_, time, width),) = shapes(imported)
    assert width == "8" and not time.isdigit() and not time.startswith("u")


def test_if_passes_captured_values_and_keeps_its_bodies() -> None:
    then = helper.make_graph([helper.make_node("Add", ["x", "big"], ["a"])], "then", [], [value("a", None)])
    other = helper.make_graph([helper.make_node("Sub", ["n", "x"], ["b"])], "other", [], [value("b", None)])
    nodes = [
        helper.make_node("Neg", ["x"], ["n"]),
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Greater", ["top", "limit"], ["c"]),
        helper.make_node("If", ["c"], ["i"], name="branch", then_branch=then, else_branch=other),
        helper.make_node("Mul", ["i", "i"], ["y"]),
    ]
    constants = {"big": np.ones(100, np.float32), "limit": np.array(1, np.float32)}
    proto = model(nodes, [value("x", ["n", 100])], [value("y", ["n", 100])], constants)
    imported = check(proto, {"x": torch.zeros(3, 100)}, {"x": torch.full((4, 100), 5.0)})
    (node,) = imported.opaque.values()
    assert set(node.inputs) == {"c", "x", "n", "big"}
    assert node.nodes[0] == nodes[3]


def test_loop_with_an_output_of_unknown_length() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["state", "one"], ["next"]),
            helper.make_node("Identity", ["next"], ["scan"]),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("state", [])],
        [value("go_on", [], TensorProto.BOOL), value("next", []), value("scan", [])],
    )
    nodes = [
        helper.make_node("Loop", ["trips", "", "start"], ["end", "all"], name="loop", body=body),
        helper.make_node("Neg", ["all"], ["y"]),
    ]
    inputs = [value("trips", [], TensorProto.INT64), value("start", [])]
    proto = model(nodes, inputs, [value("end", []), value("y", ["k"])], {"one": np.array(1, np.float32)})
    imported = check(proto, {"trips": torch.tensor(7), "start": torch.tensor(0.5)})
    assert shapes(imported)[1][0].startswith("u")


def test_nonzero_and_random_nodes_stay_opaque() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("RandomNormalLike", ["x"], ["noise"], seed=3.0),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    outputs = [value("where", [2, "k"], TensorProto.INT64), value("y", ["n", 4])]
    imported = import_onnx(model(nodes, [value("x", ["n", 4])], outputs))
    assert {node.nodes[0].op_type for node in imported.opaque.values()} == {"NonZero", "RandomNormalLike"}
    assert not shapes(imported)[1][0].startswith("u")


def test_sequences_become_one_region() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["n"]),
        helper.make_node("SequenceConstruct", ["x", "n"], ["s"]),
        helper.make_node("SequenceAt", ["s", "one"], ["e"]),
        helper.make_node("Exp", ["e"], ["f"]),
        helper.make_node("SequenceInsert", ["s", "f"], ["t"]),
        helper.make_node("ConcatFromSequence", ["t"], ["y"], axis=0),
    ]
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["k", 4])], {"one": np.array(1)})
    imported = check(proto, {"x": torch.randn(7, 4)})
    (region,) = imported.opaque.values()
    assert [node.op_type for node in region.nodes] == [node.op_type for node in nodes[1:]]
    assert region.inputs == ("x", "n")
    assert region.outputs == ("y",)


def test_sequence_at_the_border_is_refused() -> None:
    output = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    proto = model([helper.make_node("SequenceConstruct", ["x", "x"], ["s"])], [value("x", [2])], [output])
    with pytest.raises(CaptureError, match="'s' at the border"):
        import_onnx(proto)


def test_contrib_domain() -> None:
    nodes = [
        helper.make_node("Inverse", ["x"], ["i"], domain="com.microsoft"),
        helper.make_node("CDist", ["i", "b"], ["g"], domain="com.microsoft"),
        helper.make_node("Relu", ["g"], ["y"]),
    ]
    constants = {"b": np.ones((2, 4), np.float32)}
    proto = model(nodes, [value("x", [4, 4])], [value("y", [4, 2])], constants, domains={"com.microsoft": 1})
    inverse, distance = check(proto).opaque.values()
    assert inverse.opset_imports["com.microsoft"] == 1
    assert inverse.reason == "com.microsoft.Inverse has no torch function"
    assert [tensor.name for tensor in distance.initializers] == ["b"]


def test_local_functions_are_inlined() -> None:
    inner = [helper.make_node("Mul", ["a", "a"], ["q"]), helper.make_node("Exp", ["q"], ["r"])]
    function = helper.make_function("local", "SquareExp", ["a"], ["r"], inner, [helper.make_opsetid("", 18)])
    nodes = [helper.make_node("SquareExp", ["x"], ["y"], domain="local")]
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], domains={"local": 1}, functions=[function])
    assert not check(proto).opaque


def test_opcheck() -> None:
    imported = import_onnx(lstm())
    (node,) = imported.opaque.values()
    inputs = [torch.randn(3, 2, 6), torch.randn(2, 32, 6), torch.randn(2, 32, 8)]
    torch.library.opcheck(torch.ops.tersor.opaque, (inputs, node.key), test_utils=("test_schema", "test_faketensor"))


def test_reexport_keeps_the_node() -> None:
    imported = import_onnx(lstm())
    shape = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    again = torch.export.export(
        imported.exported.module(check_guards=False), tuple(imported.example.values()), dynamic_shapes=(shape,)
    )
    keys = [node.args[1] for node in again.graph.nodes if node.target is torch.ops.tersor.opaque.default]
    assert keys == list(imported.opaque)
