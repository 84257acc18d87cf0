"""ONNX files become torch.export programs that agree with ONNX Runtime at several sizes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch.export import Dim

from tersor.capture import load
from tersor.capture.onnx.importer import Imported, import_onnx
from tersor.errors import InputError
from tests.capture.onnx.build import model, run, value


def ocr_file(name: str) -> Path:
    package = pytest.importorskip("rapidocr_onnxruntime", reason="its package brings the PP-OCRv4 files")
    return Path(package.__file__).parent / "models" / name


def user_shape(imported: Imported) -> list[str]:
    name = imported.exported.graph_signature.user_inputs[0]
    node = next(node for node in imported.exported.graph.nodes if node.name == name)
    return [str(size) for size in node.meta["val"].shape]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        # The larger two again in tests/real, recognition by default.
        pytest.param("ch_PP-OCRv4_det_infer.onnx", [(1, 3, 96, 64), (3, 3, 160, 128)], marks=pytest.mark.slow),
        pytest.param("ch_PP-OCRv4_rec_infer.onnx", [(1, 3, 48, 320), (6, 3, 48, 100)], marks=pytest.mark.slow),
        ("ch_ppocr_mobile_v2.0_cls_infer.onnx", [(1, 3, 48, 192), (6, 3, 48, 100)]),
    ],
)
def test_ocr_files_agree_at_other_sizes(name: str, shapes: list[tuple[int, ...]]) -> None:
    path = ocr_file(name)
    imported = import_onnx(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    module = imported.exported.module(check_guards=False)
    assert not imported.opaque, imported.notes
    assert [size.isdigit() for size in user_shape(imported)] == [False, True, False, False]
    for shape in shapes:
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        wanted = torch.from_numpy(session.run(None, {imported.input_names[0]: x.numpy()})[0])
        torch.testing.assert_close(module(x)[0], wanted, rtol=1e-4, atol=1e-5)


def test_an_axis_without_a_name_is_called_after_its_input() -> None:
    nodes = [helper.make_node("Relu", ["image.0"], ["y"])]
    program = load(model(nodes, [value("image.0", [None, "w"])], [value("y", [None, "w"])]))
    assert {dimension.name for dimension in program.dimensions.values()} == {"image_0_dim0", "w"}


def test_provenance_survives_decomposition() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
        helper.make_node("Softmax", ["m"], ["y"], axis=-1),
    ]
    constants = {"w": np.ones((100, 100), np.float32)}
    imported = import_onnx(model(nodes, [value("x", ["n", 100])], [value("y", ["n", 100])], constants))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.`", FutureWarning)
        decomposed = imported.exported.run_decompositions({})
    for program in (imported.exported, decomposed):
        origins = [node.meta["custom"]["onnx"] for node in program.graph.nodes if node.op == "call_function"]
        assert origins == ["product", "y"]


def test_names_and_metadata() -> None:
    proto = model(
        [helper.make_node("Add", ["a:0", "big/weight.1"], ["out"])],
        [value("a:0", ["batch", 100])],
        [value("out", ["batch", 100])],
        {"big/weight.1": np.arange(100, dtype=np.float32)},
        producer_name="maker",
    )
    helper.set_model_props(proto, {"labels": "cat,dog"})
    imported = import_onnx(proto)
    assert (imported.input_names, imported.output_names) == (("a:0",), ("out",))
    assert imported.interface.metadata == {"labels": "cat,dog"}
    assert imported.interface.producer_name == "maker"
    assert imported.interface.inputs[0].shape == ("batch", 100)
    assert torch.equal(imported.exported.state_dict[imported.buffer_names["big/weight.1"]], torch.arange(100.0))


def test_same_axis_name_is_the_same_size() -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    proto = model(nodes, [value("a", ["n", 3]), value("b", ["n", 3])], [value("y", ["n", 3])])
    imported = import_onnx(proto)
    assert len(imported.exported.range_constraints) == 1
    assert not imported.notes


def test_shape_arithmetic_stays_symbolic() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Gather", ["s", "one"], ["t"]),
        helper.make_node("Mul", ["n", "t"], ["nt"]),
        helper.make_node("Unsqueeze", ["nt", "axis"], ["front"]),
        helper.make_node("Concat", ["front", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {
        "zero": np.array(0), "one": np.array(1), "axis": np.array([0]), "rest": np.array([2, -1]),
    }  # fmt: skip
    proto = model(nodes, [value("x", ["n", "t", 6])], [value("y", None)], constants)
    imported = import_onnx(proto)
    assert not imported.opaque and not imported.notes
    x = torch.randn(5, 7, 6)
    got = imported.exported.module(check_guards=False)(x)[0]
    assert torch.equal(got, torch.from_numpy(run(proto, {"x": x})[0]))


def test_an_axis_that_only_works_at_one_size_is_noted() -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["y"])]
    constants = {"b": np.zeros((2, 70), np.float32)}
    imported = import_onnx(model(nodes, [value("x", ["n", 70])], [value("y", ["n", 70])], constants))
    assert any("axis 0 of 'x' is fixed to 2" in note for note in imported.notes)


def test_initializers_that_are_inputs_too_are_constants() -> None:
    proto = model(
        [helper.make_node("Add", ["x", "b"], ["y"])],
        [value("x", [2]), value("b", [2])],
        [value("y", [2])],
        {"b": np.ones(2, np.float32)},
    )
    imported = import_onnx(proto)
    assert imported.input_names == ("x",)


def test_given_inputs_and_dynamic_axes() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    proto = model(nodes, [value("x", ["n", "m"])], [value("y", ["n", "m"])])
    imported = import_onnx(proto, {"x": torch.randn(4, 9)}, {"x": {0: Dim("rows")}})
    assert [size.isdigit() for size in user_shape(imported)] == [False, True]


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ({"z": torch.zeros(2, 3)}, r"inputs \['z'\]"),
        ({"x": torch.zeros(2, 3, dtype=torch.int64)}, "torch.int64"),
        ({"x": torch.zeros(2, 4)}, r"shape \[2, 4\]"),
        ([torch.zeros(2, 3), torch.zeros(1)], "were given"),
    ],
)
def test_inputs_that_do_not_fit(inputs: object, match: str) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", ["n", 3])], [value("y", ["n", 3])])
    with pytest.raises(InputError, match=match):
        import_onnx(proto, inputs)  # type: ignore[arg-type]


def test_weights_in_constant_nodes() -> None:
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    imported = import_onnx(model(nodes, [value("x", ["n", 16])], [value("y", ["n", 16])]))
    assert list(imported.buffer_names) == ["w"]


def test_integer_inputs_stay_inside_their_table() -> None:
    nodes = [
        helper.make_node("Cast", ["ids"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["y"]),
    ]
    constants = {"table": np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)}
    proto = model(nodes, [value("ids", ["b", "t"], TensorProto.INT32)], [value("y", None)], constants)
    imported = import_onnx(proto)
    ids = imported.example["ids"]
    assert 2 < ids.max() < 40 and ids.min() >= 0
    assert ids.shape[0] != ids.shape[1]


def test_many_nodes_take_time_in_proportion() -> None:
    """20,000 nodes are read and replayed in seconds: nothing is quadratic."""
    count = 20_000
    nodes = [helper.make_node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
    proto = model(nodes, [value("v0", ["n"])], [value(f"v{count}", ["n"])])
    from tersor.capture.onnx.files import read_model
    from tersor.capture.onnx.graph import read_graph
    from tersor.capture.onnx.replay import Replay

    replay = Replay(read_graph(read_model(proto)))
    x = torch.randn(3)
    assert torch.equal(replay(x)[0], x)
