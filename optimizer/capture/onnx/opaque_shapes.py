"""Sizes of opaque nodes' outputs that ONNX's shape inference leaves open where the input's sizes are dynamic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnx import NodeProto

from tersor.capture.onnx.nodes import described
from tersor.capture.onnx.operators.windows import windows

_CONVOLUTIONS = {"ConvInteger": 1, "QLinearConv": 3}
"""Position of the weight; the data come first."""


def sizes_of(
    nodes: Sequence[NodeProto], shapes: Mapping[str, Sequence[Any]], opsets: Mapping[str, int]
) -> list[Any] | None:
    """The shape of the output of a convolution of integers, None for all other nodes.

    Args:
        shapes: of the values that the node reads, by name; sizes are int or SymInt.
    """
    position = _CONVOLUTIONS.get(nodes[0].op_type) if len(nodes) == 1 and not nodes[0].domain else None
    if position is None:
        return None
    data, weight = (shapes.get(nodes[0].input[place]) for place in (0, position))
    if data is None or weight is None:
        return None
    w = windows(described(nodes[0], opsets), data[2:], weight[2:])
    padded = [size + begin + end for size, begin, end in zip(data[2:], w.begin, w.end, strict=True)]
    counts = [(size - span) // stride + 1 for size, span, stride in zip(padded, w.spans, w.strides, strict=True)]
    return [data[0], weight[0], *counts]
