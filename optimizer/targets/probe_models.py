"""ONNX models that repeat one operator, so that the time of one is the difference of a long and a short one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tersor.targets.probes import Probe

_OPSET = 20
_STEP = 0.05
"""Scale of the eight-bit activations."""
_COLOURS = 3
ALWAYS_APART = ("mean", "permute", "dequantize")
"""Operators whose results have another shape, or that undo each other."""
FUSED = ("add", "function", "gate", "join")
"""Operators of which some runtimes run a chain as one."""
_CONVOLUTIONS = ("conv", "pointwise_conv", "grouped_conv", "depthwise")


def model(probe: Probe, count: int, *, apart: bool = False) -> onnx.ModelProto:
    """So many operators in a row.

    Args:
        probe: the operator.
        count: how many; even, since channels alternate.
        apart: they read inputs of their own instead of each other's results.
    """
    made = _Model(probe)
    if apart:
        for place in range(count):
            value = made.given("x0" if probe.kind == "linear" else f"x{place}")
            made.outputs.append(_one(made, made.quantized(value) if probe.dtype == "int8" else value, 0))
        return made.proto()
    value = made.given("x0")
    if probe.stride > 1 or probe.a == _COLOURS:
        return _fan(made, value, count)
    if probe.dtype == "int8":
        value = made.quantized(value)
    for place in range(count):
        value = _one(made, value, place)
    made.outputs.append(value)
    return made.proto()


def chain(parts: Sequence[Probe], count: int) -> onnx.ModelProto:
    """A block of different operators, so many times, each reading what the one before it made.

    An "add" sums with what the block read.
    """
    made = _Model(parts[0])
    value = made.given("x0")
    for _ in range(count):
        begin = value
        for part in parts:
            made.probe = part
            value = made.add("Add", value, begin) if part.kind == "add" else _one(made, value, 0)
    made.outputs.append(value)
    return made.proto()


def _fan(made: _Model, value: str, count: int) -> onnx.ModelProto:
    """Operators beside each other that read the same, where results cannot be read by the next one."""
    probe = made.probe
    if probe.a > _COLOURS:
        value = made.add("MaxPool", value, kernel_shape=[1, 1])
    for place in range(count):
        made.outputs.append(made.add("GlobalAveragePool", _one(made, value, 2 * place)))
    return made.proto()


@dataclass
class _Model:
    probe: Probe
    nodes: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    names: Any = field(default_factory=itertools.count)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"y{next(self.names)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def given(self, name: str) -> str:
        if all(item.name != name for item in self.inputs):
            self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, _shape(self.probe)))
        return name

    def constant(self, value: Any) -> str:
        name = f"w{next(self.names)}"
        self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def quantized(self, value: str) -> str:
        """The value through eight unsigned bits."""
        scale, zero = self.constant(np.float32(_STEP)), self.constant(np.uint8(128))
        return self.add("DequantizeLinear", self.add("QuantizeLinear", value, scale, zero), scale, zero)

    def weight(self, *shape: int) -> str:
        """Numbers that neither grow nor vanish on their way through many layers."""
        # Runtimes merge operators whose constants are the same.
        values = np.resize(np.roll(_NUMBERS, 7919 * len(self.constants)), math.prod(shape)).reshape(shape)
        if self.probe.dtype != "int8":
            return self.constant(values / np.float32(math.sqrt(math.prod(shape[1:]))))
        whole = self.constant(np.clip(values * 40, -127, 127).astype(np.int8))
        scales = self.constant(np.full(shape[0], 0.025 / math.sqrt(math.prod(shape[1:])), np.float32))
        return self.add("DequantizeLinear", whole, scales, self.constant(np.zeros(shape[0], np.int8)), axis=0)

    def proto(self) -> onnx.ModelProto:
        outputs = [helper.make_empty_tensor_value_info(name) for name in self.outputs]
        for item in outputs:
            item.type.tensor_type.elem_type = TensorProto.FLOAT
        graph = helper.make_graph(self.nodes, "probe", self.inputs, outputs, list(self.constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)


_NUMBERS = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32)


def _shape(probe: Probe) -> list[int]:
    if probe.kind in _CONVOLUTIONS:
        side = probe.rows * probe.stride
        return [1, probe.a, side, side]
    if probe.kind == "attention":
        return [1, probe.groups, probe.rows, probe.a]
    if probe.kind == "pool":
        return [1, probe.rows, math.isqrt(probe.a), math.isqrt(probe.a)]
    if probe.kind == "permute":
        return [probe.rows, probe.a // probe.b, probe.b]
    return [probe.rows, probe.a]


def _one(made: _Model, value: str, place: int) -> str:
    probe = made.probe
    if probe.kind in _CONVOLUTIONS:
        a, b = (probe.a, probe.b) if place % 2 == 0 else (probe.b, probe.a)
        weight, half = made.weight(b, a // probe.groups, probe.window, probe.window), probe.window // 2
        if probe.stride >= probe.window > 1:
            half = 0
        strides = [probe.stride] * 2
        result = made.add("Conv", value, weight, pads=[half] * 4, group=probe.groups, strides=strides)
        return made.quantized(result) if probe.dtype == "int8" else result
    if probe.kind == "linear":
        a, b = (probe.a, probe.b) if place % 2 == 0 else (probe.b, probe.a)
        result = made.add("Gemm", value, made.weight(b, a), transB=1)
        return made.quantized(result) if probe.dtype == "int8" else result
    if probe.kind == "attention":
        return _attention(made, value)
    if probe.kind == "heads":
        return _heads(made, value)
    if probe.kind == "scale":
        return made.add("Mul", value, made.add("Sigmoid", made.add("GlobalAveragePool", value)))
    if probe.kind == "function":
        return _gelu(made, value)
    if probe.kind == "gate":
        return made.add("Mul", value, made.add("Sigmoid", value))
    return _plain(made, value)


def _attention(made: _Model, value: str) -> str:
    turned = made.add("Transpose", value, perm=[0, 1, 3, 2])
    scale = made.constant(np.float32(made.probe.a**-0.5))
    scores = made.add("Mul", made.add("MatMul", value, turned), scale)
    return made.add("MatMul", made.add("Softmax", scores, axis=-1), value)


def _heads(made: _Model, value: str) -> str:
    """Attention between the two changes of order that put heads beside each other and tokens back together."""
    probe = made.probe
    apart = made.constant(np.array([1, probe.rows, probe.groups, probe.a], np.int64))
    together = made.constant(np.array([probe.rows, probe.groups * probe.a], np.int64))
    tokens = made.add("Transpose", made.add("Reshape", value, apart), perm=[0, 2, 1, 3])
    found = made.add("Transpose", _attention(made, tokens), perm=[0, 2, 1, 3])
    return made.add("Reshape", found, together)


def _gelu(made: _Model, value: str) -> str:
    """As exporters write it, for the runtime to recognise."""
    half, one, root = (made.constant(np.float32(number)) for number in (0.5, 1.0, math.sqrt(2.0)))
    shifted = made.add("Add", made.add("Erf", made.add("Div", value, root)), one)
    return made.add("Mul", made.add("Mul", value, shifted), half)


def _stored(made: _Model) -> str:
    """Eight-bit weights with a scale for each row, as floating-point numbers."""
    rows, columns = made.probe.rows, made.probe.a
    whole = np.resize(np.roll(_NUMBERS, 7919 * len(made.constants)) * 40, (rows, columns)).clip(-127, 127)
    scales = made.constant(np.full(rows, 0.02, np.float32))
    zeros = made.constant(np.zeros(rows, np.int8))
    return made.add("DequantizeLinear", made.constant(whole.astype(np.int8)), scales, zeros, axis=0)


def _plain(made: _Model, value: str) -> str:
    probe = made.probe
    if probe.kind == "add":
        return made.add("Add", value, made.given("x"))
    if probe.kind == "softmax":
        return made.add("Softmax", value, axis=-1)
    if probe.kind in ("norm", "skip_norm"):
        value = value if probe.kind == "norm" else made.add("Add", value, made.given("x"))
        ones = made.constant(np.ones(probe.a, np.float32))
        return made.add("LayerNormalization", value, ones, ones, axis=-1)
    if probe.kind == "pool":
        return made.add("MaxPool", value, kernel_shape=[probe.window] * 2, pads=[probe.window // 2] * 4)
    if probe.kind == "mean":
        return made.add("ReduceMean", value, made.constant(np.array([1])), keepdims=1)
    if probe.kind == "permute":
        return made.add("Transpose", value, perm=[1, 0, 2])
    if probe.kind == "dequantize":
        return _stored(made)
    return made.add("Concat", value, made.constant(np.ones((1, probe.a), np.float32)), axis=0)
