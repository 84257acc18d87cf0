"""Random attribute combinations of windowed, resizing, normalizing and quantizing operators against ONNX Runtime."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from tersor.capture.onnx.files import ModelFile
from tersor.capture.onnx.graph import read_graph
from tersor.capture.onnx.replay import Replay

Drawn = tuple[list[np.ndarray | None], dict[str, Any]]
CONTRIB = "com.microsoft"


def model_of(op: str, inputs: list[np.ndarray | None], attributes: dict[str, Any], opset: int) -> onnx.ModelProto:
    """One node; the first input is the graph's, the others are constants."""
    names = [f"x{i}" if value is not None else "" for i, value in enumerate(inputs)]
    domain = attributes.pop("domain", "")
    node = helper.make_node(op, names, ["y"], domain=domain, **attributes)
    constants = [
        onnx.numpy_helper.from_array(value, name)
        for name, value in zip(names[1:], inputs[1:], strict=True)
        if value is not None
    ]
    first = inputs[0]
    assert first is not None
    x = helper.make_tensor_value_info("x0", helper.np_dtype_to_tensor_dtype(first.dtype), first.shape)
    graph = helper.make_graph([node], "g", [x], [helper.make_empty_tensor_value_info("y")], constants)
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10))


class Draw:
    """A seeded source of sizes, choices and arrays."""

    def __init__(self, seed: int) -> None:
        self.random, self.numpy = random.Random(seed), np.random.default_rng(seed)

    def sizes(self, count: int, low: int, high: int) -> list[int]:
        return [self.random.randint(low, high) for _ in range(count)]

    def one(self, *options: Any) -> Any:
        return self.random.choice(options)

    def floats(self, *shape: int) -> np.ndarray:
        return self.numpy.standard_normal(shape, dtype=np.float32)

    def bytes(self, dtype: type, *shape: int) -> np.ndarray:
        return self.numpy.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape).astype(dtype)


def windows(draw: Draw, dilated: bool) -> tuple[list[int], list[int], dict[str, Any]]:
    rank = draw.one(1, 2, 2, 3)
    kernel, strides = draw.sizes(rank, 1, 4), draw.sizes(rank, 1, 3)
    dilations = draw.sizes(rank, 1, 2) if dilated else [1] * rank
    sizes = [(k - 1) * d + 1 + draw.random.randint(0, 7) for k, d in zip(kernel, dilations, strict=True)]
    pads = [draw.random.randint(0, min(2, kernel[i % rank] - 1)) for i in range(2 * rank)]
    attributes: dict[str, Any] = {"strides": strides, "pads": pads}
    if dilated:
        attributes["dilations"] = dilations
    elif draw.one(True, False):
        kernel = [max(k, s) for k, s in zip(kernel, strides, strict=True)]
        sizes = [max(n, k) for n, k in zip(sizes, kernel, strict=True)]
        attributes = {"strides": strides, "auto_pad": draw.one("SAME_UPPER", "SAME_LOWER", "VALID")}
    return sizes, kernel, attributes


def conv(draw: Draw) -> Drawn:
    sizes, kernel, attributes = windows(draw, draw.one(True, False))
    bias = draw.floats(4) if draw.one(True, False) else None
    return [draw.floats(2, 4, *sizes), draw.floats(4, 2, *kernel), bias], attributes | {"group": 2}


def conv_transpose(draw: Draw) -> Drawn:
    sizes, kernel, attributes = windows(draw, draw.one(True, False))
    bias = draw.floats(6) if draw.one(True, False) else None
    return [draw.floats(2, 4, *sizes), draw.floats(4, 3, *kernel), bias], attributes | {"group": 2}


def pool(draw: Draw) -> Drawn:
    sizes, kernel, attributes = windows(draw, draw.one(True, False))
    attributes["kernel_shape"] = kernel
    if "pads" in attributes:
        attributes["ceil_mode"] = draw.one(0, 1)
    return [draw.floats(2, 3, *sizes)], attributes


def average_pool(draw: Draw) -> Drawn:
    inputs, attributes = pool(draw)
    return inputs, attributes | {"count_include_pad": draw.one(0, 1)}


def lp_pool(draw: Draw) -> Drawn:
    inputs, attributes = pool(draw)
    return inputs, attributes | {"p": draw.one(1, 2, 3)}


def resize(draw: Draw) -> Drawn:
    mode = draw.one("nearest", "linear", "cubic")
    rank = 2 if mode == "cubic" else draw.one(1, 2, 3)
    sizes = draw.sizes(rank, 5, 9)
    coordinates = draw.one("half_pixel", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners")
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        attributes["nearest_mode"] = draw.one("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    if mode == "cubic":
        attributes |= {"exclude_outside": draw.one(0, 1), "cubic_coeff_a": draw.one(-0.75, -0.5)}
    elif mode == "linear" and rank == 2:
        attributes["antialias"] = draw.one(0, 1)
    x = draw.floats(1, 2, *sizes)
    if coordinates == "align_corners" or draw.one(True, False):
        new = [n + draw.one(-3, -1, 1, 4, n) for n in sizes]
        return [x, None, None, np.array([1, 2, *new], np.int64)], attributes
    scales = [1, 1, *(draw.one(0.5, 0.6, 0.7, 1.5, 2, 2.5, 3) for _ in sizes)]
    return [x, None, np.array(scales, np.float32)], attributes


def gemm(draw: Draw) -> Drawn:
    (m, k, n), trans_a, trans_b = draw.sizes(3, 1, 5), draw.one(0, 1), draw.one(0, 1)
    c = draw.one(None, draw.floats(n), draw.floats(1, n), draw.floats(m, 1), draw.floats(m, n), draw.floats(1))
    a, b = draw.floats(*((k, m) if trans_a else (m, k))), draw.floats(*((n, k) if trans_b else (k, n)))
    return [a, b, c], {"transA": trans_a, "transB": trans_b, "alpha": draw.one(1.0, 0.5), "beta": draw.one(1.0, 2.0)}


def layer_normalization(draw: Draw) -> Drawn:
    shape, axis = draw.sizes(3, 1, 5), draw.one(-1, 1, -2, 0, 2)
    bias = draw.floats(*shape[axis:]) if draw.one(True, False) else None
    return [draw.floats(*shape), draw.floats(*shape[axis:]), bias], {"axis": axis}


def attention(draw: Draw) -> Drawn:
    heads, lengths = draw.one(2, 4), draw.sizes(2, 2, 6)
    k, v = (draw.floats(2, heads, lengths[1], 8) for _ in range(2))
    mask = draw.floats(*lengths) if draw.one(True, False) else None
    return [draw.floats(2, 4, lengths[0], 8), k, v, mask], {"is_causal": draw.one(0, 1), "softcap": draw.one(0.0, 2.0)}


def quantize_linear(draw: Draw) -> Drawn:
    x = draw.floats(3, 4, 5) * 5
    if draw.one(True, False):
        return [x, np.array(0.07, np.float32), np.array(3, np.uint8)], {}
    return [x, np.abs(draw.floats(4)) + 0.01, draw.bytes(np.int8, 4)], {"axis": 1}


def dequantize_linear(draw: Draw) -> Drawn:
    return [draw.bytes(np.int8, 3, 4, 5), np.abs(draw.floats(4)) + 0.01, draw.bytes(np.int8, 4)], {"axis": 1}


def fused_conv(draw: Draw) -> Drawn:
    activation, parameters = draw.one(("Relu", []), ("LeakyRelu", [0.1]), ("Clip", [-0.1, 0.3]))
    attributes = {"domain": CONTRIB, "group": 2, "activation": activation}
    if parameters:
        attributes["activation_params"] = parameters
    return [draw.floats(1, 4, 6, 5), draw.floats(6, 2, 3, 3), draw.floats(6)], attributes


def fused_matmul(draw: Draw) -> Drawn:
    return [draw.floats(2, 3, 8), draw.floats(2, 5, 8)], {"domain": CONTRIB, "transB": 1, "alpha": 0.25}


def skip_layer_normalization(draw: Draw) -> Drawn:
    parameters = [draw.floats(8) for _ in range(3)]
    return [draw.floats(2, 3, 8), draw.floats(2, 3, 8), *parameters], {"domain": CONTRIB, "epsilon": 1e-5}


def bias_gelu(draw: Draw) -> Drawn:
    return [draw.floats(2, 3, 8), draw.floats(8)], {"domain": CONTRIB}


DRAWS: dict[str, tuple[Callable[[Draw], Drawn], int]] = {
    "Conv": (conv, 21), "ConvTranspose": (conv_transpose, 21), "MaxPool": (pool, 21),
    "AveragePool": (average_pool, 21), "LpPool": (lp_pool, 21), "Resize": (resize, 19), "Gemm": (gemm, 21),
    "LayerNormalization": (layer_normalization, 21), "Attention": (attention, 23),
    "QuantizeLinear": (quantize_linear, 21), "DequantizeLinear": (dequantize_linear, 21),
    "FusedConv": (fused_conv, 21),
    "FusedMatMul": (fused_matmul, 21), "SkipLayerNormalization": (skip_layer_normalization, 21),
    "BiasGelu": (bias_gelu, 21), "FastGelu": (bias_gelu, 21),
}  # fmt: skip


@pytest.mark.parametrize("op", DRAWS)
def test_random_combinations(op: str) -> None:
    function, opset = DRAWS[op]
    compared = 0
    for seed in range(25):
        inputs, attributes = function(Draw(seed))
        feed: Any = inputs[0]
        while inputs[-1] is None:  # ONNX Runtime crashes on some operators with an explicitly empty last input
            inputs.pop()
        model = model_of(op, inputs, dict(attributes), opset)
        replay = Replay(read_graph(ModelFile(model, None)))
        y = replay(torch.from_numpy(feed))
        if replay.opaque_nodes:
            continue
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        (expected,) = session.run(None, {"x0": feed})
        message = f"{attributes} {[None if i is None else i.shape for i in inputs]}"
        found: Any = y[0].numpy()
        assert found.dtype == expected.dtype, message
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=message)
        compared += 1
    assert compared >= 20
