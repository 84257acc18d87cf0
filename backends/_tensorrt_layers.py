"""Layers that multiply by a constant weight, as they stand in an ONNX graph: the weight, its types, what it reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from tersor.export.edit import int_attribute, is_op

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        node: the product.
        weight: as it is stored: floats, or levels.
        taken_back: what takes the levels back; None for floats.
        reads: what quantizes and takes back what it reads; None where that is in floating point.
        turned: whether the weight is ``[in, out]``, or ``[in, out / groups, ...]`` of a transposed convolution.
    """

    node: ir.Node
    weight: ir.Value
    taken_back: ir.Node | None
    reads: ir.Node | None
    turned: bool

    @property
    def groups(self) -> int:
        """Of a convolution; one for a product."""
        return int_attribute(self.node, "group", 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """``[out, in / groups, *kernel]``; of a transposed convolution as it is stored."""
        assert self.weight.const_value is not None
        sizes = tuple(int(size) for size in self.weight.const_value.shape.numpy())
        return (*sizes[1::-1], *sizes[2:]) if self.turned and len(sizes) == 2 else sizes


def layers(graph: ir.Graph) -> Iterator[Layer]:
    """All of them, in order."""
    for node in graph:
        if is_op(node, *WEIGHTED):
            found = _layer(node)
            if found is not None:
                yield found


def _layer(node: ir.Node) -> Layer | None:
    value, turns = node.inputs[1], is_op(node, "MatMul", "ConvTranspose")
    if is_op(node, "Gemm"):
        turns = not int_attribute(node, "transB", 0)
    made_by = value.producer() if value is not None else None
    if is_op(made_by, "Transpose") and made_by is not None:
        value, turns = made_by.inputs[0], not turns
        made_by = value.producer() if value is not None else None
    taken_back = made_by if is_op(made_by, "DequantizeLinear") else None
    weight = taken_back.inputs[0] if taken_back is not None else value
    if weight is None or weight.const_value is None or weight.is_graph_input():
        return None
    rank = len(weight.const_value.shape.numpy())
    if rank < 3 if is_op(node, "Conv", "ConvTranspose") else rank != 2:
        return None
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    reads = source if is_op(source, "DequantizeLinear") else None
    return Layer(node, weight, taken_back, reads, turns)
