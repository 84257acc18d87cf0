"""Damaged, foreign and hostile files end in one line that says what to do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from onnx import helper

from tersor.capture.onnx.files import read_model
from tersor.capture.onnx.graph import read_graph
from tersor.capture.onnx.importer import import_onnx
from tersor.capture.onnx.tensors import read_tensor
from tersor.errors import ModelFileError
from tests.capture.onnx.build import model, value


def linear() -> onnx.ModelProto:
    weight = np.arange(4096, dtype=np.float32).reshape(64, 64)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    return model(nodes, [value("x", ["n", 64])], [value("y", ["n", 64])], {"w": weight})


def external(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(linear(), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def refuse(source: object, match: str) -> None:
    with pytest.raises(ModelFileError, match=match) as caught:
        read_graph(read_model(source))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04rest", "zip archive"),
        (b'{"a": 1}', "JSON"),
        (b"\x80\x02}q\x00.", "pickle"),
        (bytes(range(1, 255)) * 9, "damaged|no graph"),
        (b"\x00" * 64, "damaged|no graph"),
    ],
)
def test_foreign_content_is_named(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    refuse(path, match)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    refuse(tmp_path / "none.onnx", "no file")
    refuse(tmp_path, "is a folder")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path: Path, part: float) -> None:
    data = linear().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ModelFileError):
        read_graph(read_model(path))


def test_random_bytes_never_end_otherwise(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    path = tmp_path / "model.onnx"
    for _ in range(200):
        path.write_bytes(generator.bytes(int(generator.integers(1, 400))))
        with pytest.raises(ModelFileError):
            read_graph(read_model(path))


def test_flipped_bytes_never_end_otherwise(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    data = bytearray(linear().SerializeToString())
    path = tmp_path / "model.onnx"
    for _ in range(200):
        copy = bytearray(data)
        for place in generator.integers(0, 200, size=3):
            copy[-1 - int(place)] = int(generator.integers(0, 256))
        path.write_bytes(copy)
        try:
            read_graph(read_model(path))
        except ModelFileError:
            continue


def test_unknown_versions() -> None:
    newer = linear()
    newer.opset_import[0].version = 999
    refuse(newer, "opset 999")
    newer = linear()
    newer.ir_version = 99
    refuse(newer, "IR version 99")


def test_domain_without_version() -> None:
    proto = linear()
    proto.graph.node[0].domain = "com.example"
    refuse(proto, "com.example.*no opset version")


def test_cycle() -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
    ]
    refuse(model(nodes, [value("x", [2])], [value("b", [2])]), "cycle")


def test_value_from_nowhere() -> None:
    nodes = [helper.make_node("Add", ["x", "ghost"], ["y"], name="sum")]
    refuse(model(nodes, [value("x", [2])], [value("y", [2])]), "'sum'.*'ghost', which nothing produces")


def test_value_from_nowhere_inside_a_body() -> None:
    body = helper.make_graph([helper.make_node("Neg", ["ghost"], ["z"])], "body", [], [value("z", [2])])
    nodes = [helper.make_node("If", ["x"], ["y"], name="branch", then_branch=body, else_branch=body)]
    refuse(model(nodes, [value("x", [], onnx.TensorProto.BOOL)], [value("y", [2])]), "ghost")


def test_duplicate_value() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"], name="again")]
    refuse(model(nodes, [value("x", [2])], [value("y", [2])]), "'again'.*exists already")


def test_output_from_nowhere() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    refuse(model(nodes, [value("x", [2])], [value("z", [2])]), "'z' is produced by nothing")


def test_unknown_element_type() -> None:
    proto = linear()
    proto.graph.initializer[0].data_type = 77
    refuse(proto, "tensor 'w'.*element type 77")


def test_data_that_does_not_fit_the_shape() -> None:
    proto = linear()
    proto.graph.initializer[0].raw_data = b"\0" * 10
    refuse(proto, "holds 10 bytes instead of 16384")


def test_unsorted_nodes_are_put_in_order() -> None:
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Neg", ["x"], ["a"])]
    graph = read_graph(read_model(model(nodes, [value("x", [2])], [value("y", [2])])))
    assert [node.op_type for node in graph.nodes] == ["Neg", "Relu"]


def test_external_data_is_read(tmp_path: Path) -> None:
    graph = read_graph(read_model(external(tmp_path)))
    weight = read_tensor(graph.constants["w"], graph.base)
    assert torch.equal(weight, torch.arange(4096.0).reshape(64, 64))


def test_onnx_ir_model_with_external_data(tmp_path: Path) -> None:
    imported = import_onnx(onnx_ir.load(external(tmp_path)))
    assert imported.input_names == ("x",)


def test_external_data_missing_or_short(tmp_path: Path) -> None:
    path = external(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:-1])
    refuse(path, "weights.bin.*cut off")
    (tmp_path / "weights.bin").unlink()
    refuse(path, "'w' is missing")


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "a/../../weights.bin", ""])
def test_external_data_outside(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = external(folder)
    (tmp_path / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    proto = onnx.load(str(path), load_external_data=False)
    next(e for e in proto.graph.initializer[0].external_data if e.key == "location").value = location
    path.write_bytes(proto.SerializeToString())
    refuse(path, "outside|location")


def test_external_data_behind_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = external(folder)
    os.rename(folder / "weights.bin", tmp_path / "secret.bin")  # noqa: PTH104
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    refuse(path, "link to outside")


def test_external_data_without_a_folder(tmp_path: Path) -> None:
    refuse(onnx.load(str(external(tmp_path)), load_external_data=False), "without a folder")
