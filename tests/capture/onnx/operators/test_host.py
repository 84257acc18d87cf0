"""Arithmetic on host values: the integer rules of ONNX Runtime, and no guards on symbolic sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch.export import Dim

import tersor.capture.onnx.operators  # noqa: F401  registers the operator functions
from tersor.capture.onnx.importer import import_onnx
from tersor.capture.onnx.registry import Node, find
from tersor.capture.onnx.values import Host, Opaque, host, tensor
from tests.capture.onnx.build import model, run, value

VERSION = 18


def call(op_type: str, *inputs: Host, **attributes: Any) -> Any:
    entry = find("", op_type, VERSION, host=True)
    assert entry is not None
    return entry.function(Node(op_type, "", VERSION, "", (), ("y",), attributes), *inputs)


def by_runtime(op_type: str, *inputs: Host, **attributes: Any) -> np.ndarray:
    names = [f"i{n}" for n in range(len(inputs))]
    arrays = [tensor(item).numpy() for item in inputs]
    kinds = [helper.np_dtype_to_tensor_dtype(array.dtype) for array in arrays]
    proto = model(
        [helper.make_node(op_type, names, ["y"], **attributes)],
        [value(name, array.shape, kind) for name, array, kind in zip(names, arrays, kinds, strict=True)],
        [helper.make_empty_tensor_value_info("y")],
        opset=VERSION,
    )
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names, arrays, strict=True)))[0]


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Equal", "Greater", "Less"])
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=3, max_size=3), st.integers(1, 9), st.booleans())
def test_integers_follow_onnx_runtime(op_type: str, items: list[int], other: int, negative: bool) -> None:
    a, b = host(items), host([-other if negative else other])
    got = call(op_type, a, b)
    assert tensor(got).numpy().tolist() == by_runtime(op_type, a, b).tolist()


@pytest.mark.parametrize("op_type", ["Div", "Mul", "Add"])
def test_floats_are_rounded_to_their_type(op_type: str) -> None:
    a, b = host([1.0, 0.1, 7.3], torch.float32), host([3.0], torch.float32)
    a = Host(np.array(tensor(a).tolist(), dtype=object), torch.float32)
    assert tensor(call(op_type, a, b)).numpy().tolist() == by_runtime(op_type, a, b).tolist()


def test_division_by_zero_is_left_to_the_runtime() -> None:
    with pytest.raises(Opaque, match="divided by zero"):
        call("Div", host([4]), host([0]))


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [
        ("Concat", (host([1, 2]), host([3])), {"axis": 0}),
        ("Gather", (host([4, 5, 6]), host([-1, 0])), {}),
        ("Slice", (host([1, 2, 3, 4]), host([-1]), host([-(2**63)]), host([0]), host([-2])), {}),
        ("Slice", (host([1, 2, 3, 4]), host([1]), host([2**63 - 1])), {}),
        ("Unsqueeze", (host([1, 2]), host([0])), {}),
        ("Squeeze", (host([[1, 2]]), host([0])), {}),
        ("Reshape", (host([1, 2, 3, 4]), host([2, -1])), {}),
        ("Tile", (host([1, 2]), host([3])), {}),
        ("Expand", (host([7]), host([3])), {}),
        ("Range", (host(5), host(-2), host(-3)), {}),
        ("ReduceProd", (host([2, 3, 4]),), {"keepdims": 0}),
        ("ReduceSum", (host([[2, 3], [4, 5]]), host([1])), {}),
        ("ReduceMax", (host([2, 9, 4]),), {}),
        ("Transpose", (host([[1, 2], [3, 4]]),), {}),
        ("Where", (host([True, False], torch.bool), host([1, 2]), host([3])), {}),
        ("Cast", (host([1.7, -1.7], torch.float32),), {"to": TensorProto.INT64}),
        ("NonZero", (host([0, 3, 0, 4]),), {}),
        ("Floor", (host([1.5, -1.5], torch.float32),), {}),
        ("Not", (host([True, False], torch.bool),), {}),
    ],
)
def test_small_arrays_follow_onnx_runtime(op_type: str, inputs: tuple[Host, ...], attributes: dict[str, Any]) -> None:
    wanted = by_runtime(op_type, *inputs, **attributes)
    got = tensor(call(op_type, *inputs, **attributes))
    assert got.numpy().dtype == wanted.dtype
    assert got.numpy().tolist() == wanted.tolist()


def test_symbolic_sizes_pass_through_without_becoming_fixed() -> None:
    """Size arithmetic as exporters write it: divide, compare with -1, choose, resize by a float factor."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Equal", ["s", "minus"], ["e"]),
        helper.make_node("Where", ["e", "ones", "s"], ["w"]),
        helper.make_node("Gather", ["w", "one"], ["t"]),
        helper.make_node("Div", ["t", "two"], ["h"]),
        helper.make_node("Cast", ["t"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "factor"], ["g"]),
        helper.make_node("Floor", ["g"], ["r"]),
        helper.make_node("Cast", ["r"], ["long"], to=TensorProto.INT64),
        helper.make_node("Slice", ["x", "zero", "h", "one"], ["y"]),
        helper.make_node("Range", ["begin", "longs", "step"], ["z"]),
        helper.make_node("Squeeze", ["long", "zero"], ["longs"]),
    ]
    order = [*nodes[:-2], nodes[-1], nodes[-2]]
    constants = {
        "minus": np.array([-1, -1]), "ones": np.array([1, 1]), "one": np.array([1]), "two": np.array([2]),
        "zero": np.array([0]), "factor": np.array([1.5], np.float32), "begin": np.array(0), "step": np.array(1),
    }  # fmt: skip
    outputs = [value("y", None), value("z", None, TensorProto.INT64)]
    proto = model(order, [value("x", ["n", "t"])], outputs, constants)
    imported = import_onnx(proto)
    assert not imported.opaque
    assert not any("fixed" in note or "relates" in note for note in imported.notes)
    x = torch.randn(3, 11)
    for got, wanted in zip(imported.exported.module(check_guards=False)(x), run(proto, {"x": x}), strict=True):
        assert torch.equal(got, torch.from_numpy(wanted))


def test_a_shape_input_computed_at_run_time_is_opaque() -> None:
    nodes = [helper.make_node("Reshape", ["x", "target"], ["y"])]
    proto = model(nodes, [value("x", [4, 6]), value("target", [2], TensorProto.INT64)], [value("y", [None, None])])
    imported = import_onnx(proto, {"x": torch.randn(4, 6), "target": torch.tensor([3, 8])}, {"x": None, "target": None})
    (node,) = imported.opaque.values()
    assert "computed at run time" in node.reason


def test_dim_objects_are_accepted() -> None:
    proto = model([helper.make_node("Neg", ["x"], ["y"])], [value("x", ["n"])], [value("y", ["n"])])
    assert import_onnx(proto, dynamic={"x": {0: Dim.AUTO}}).exported is not None
