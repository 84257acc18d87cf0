"""Example inputs fit the types, names and sizes of a model, and are the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from tersor.capture.onnx.examples import example_inputs
from tersor.errors import InputError
from tests.capture.onnx.build import model, run, value


def image_model() -> object:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    weight = np.ones((4, 3, 3, 3), np.float32)
    return model(nodes, [value("x", ["batch", 3, None, "?"])], [value("y", None)], {"w": weight})


def test_dynamic_axes_get_different_sizes() -> None:
    x = example_inputs(image_model())["x"]  # type: ignore[arg-type]
    batch, channels, height, width = x.shape
    assert channels == 3
    assert len({batch, height, width}) == 3
    assert min(batch, height, width) >= 2


def test_examples_are_reproducible() -> None:
    first, second = (example_inputs(image_model())["x"] for _ in range(2))  # type: ignore[arg-type]
    assert torch.equal(first, second)


def test_sizes_can_be_chosen() -> None:
    x = example_inputs(image_model(), {"batch": 5, "x[3]": 48})["x"]  # type: ignore[arg-type]
    assert (x.shape[0], x.shape[3]) == (5, 48)


@pytest.mark.parametrize("sizes", [{"nobody": 3}, {"batch": 0}])
def test_bad_sizes(sizes: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"known are|at least 1"):
        example_inputs(image_model(), sizes)  # type: ignore[arg-type]


def test_masks_are_ones_and_axis_sums_are_kept() -> None:
    nodes = [
        helper.make_node("Concat", ["past", "x"], ["all"], axis=1),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["all", "m"], ["y"]),
    ]
    inputs = [
        value("attention_mask", ["batch", "past + sequence"], TensorProto.INT64),
        value("past", ["batch", "past"]),
        value("x", ["batch", "sequence"]),
    ]
    proto = model(nodes, inputs, [value("y", ["batch", "past + sequence"])])
    example = example_inputs(proto)
    assert example["attention_mask"].shape[1] == example["past"].shape[1] + example["x"].shape[1]
    assert example["attention_mask"].min() == 1
    assert run(proto, example)[0].shape == tuple(example["attention_mask"].shape)


def test_a_mask_that_hides_everything_when_it_is_one_is_zero() -> None:
    nodes = [
        helper.make_node("Where", ["padded", "low", "x"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["y"], axis=-1),
    ]
    inputs = [value("padded", ["batch", "length"], TensorProto.BOOL), value("x", ["batch", "length"])]
    proto = model(nodes, inputs, [value("y", None)], {"low": np.array(-np.inf, np.float32)})
    example = example_inputs(proto)
    assert not example["padded"].any()
    assert np.isfinite(run(proto, example)[0]).all()


def test_a_mask_hides_a_part_where_the_runtime_cannot_tell_what_it_means() -> None:
    nodes = [helper.make_node("NoSuchOperator", ["padded", "x"], ["y"], domain="elsewhere")]
    inputs = [value("padded", ["batch", "length"], TensorProto.BOOL), value("x", ["batch", "length"])]
    proto = model(nodes, inputs, [value("y", None)])
    proto.opset_import.append(helper.make_opsetid("elsewhere", 1))
    padded = example_inputs(proto)["padded"]
    assert padded[:, 0].all() and not padded[:, -1].any()


def test_other_sizes_are_tried_when_the_runtime_refuses() -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    proto = model(nodes, [value("x", ["n"])], [value("y", None)], {"shape": np.array([-1, 40])})
    assert example_inputs(proto)["x"].shape[0] % 40 == 0


def test_a_model_that_takes_nothing() -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    proto = model(nodes, [value("x", ["n"])], [value("y", None)], {"shape": np.array([-1, 10_007])})
    with pytest.raises(InputError, match="every input tried"):
        example_inputs(proto)
