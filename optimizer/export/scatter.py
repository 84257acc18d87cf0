"""Sums at points that may coincide, written so that no addition is lost.

ONNX Runtime's threads share the points of a ScatterND among them and add without waiting for each other
(core/providers/cpu/tensor/scatter_nd.cc; its issue 18048): where two points are the same, a sum now and then lacks a
part. Its ScatterElements is one loop over all elements, so it is right and several times slower.
"""

from __future__ import annotations

from typing import Any

import numpy
import onnx_ir as ir

from tersor.export.dims import inferred_dims
from tersor.export.edit import (
    Dim,
    add_constant,
    apply_rules,
    constant_array,
    insert_before,
    replace,
)


def order_scatters(graph: ir.Graph) -> bool:
    """Write ScatterND with a reduction as ScatterElements unless its points are known to differ."""
    return apply_rules(graph, {"ScatterND": _ordered})


def _ordered(graph: ir.Graph, node: ir.Node) -> bool:
    reduction = node.attributes.get("reduction")
    if reduction is None or reduction.as_string() == "none":
        return False
    points, data = inferred_dims(node.inputs[1]), inferred_dims(node.inputs[0])
    if points is None or data is None:
        return False
    depth = points[-1]
    if not isinstance(depth, int) or depth == 0 or _differ(node.inputs[1], data[:depth]):
        return False
    made = _Rows(graph, node, data, depth)
    scattered = made.add(
        "ScatterElements", made.rows(node.inputs[0]), made.index(), made.rows(node.inputs[2]),
        axis=0, reduction=reduction.as_string(),
    )  # fmt: skip
    result = made.add("Reshape", scattered, made.whole())
    result.name = node.outputs[0].name
    replace(graph, node, result)
    return True


def _differ(points: ir.Value | None, lead: tuple[Dim, ...]) -> bool:
    """Whether points are constant and no two of them are equal."""
    array = constant_array(points, 1 << 20)
    if array is None:
        return False
    rows = array.reshape(-1, array.shape[-1])
    if (rows < 0).any():
        if not all(isinstance(size, int) for size in lead):
            return False
        rows = numpy.where(rows < 0, rows + numpy.array(lead), rows)
    return len(numpy.unique(rows, axis=0)) == len(rows)


class _Rows:
    """Inserts what makes of data, points and updates rows along one axis."""

    def __init__(self, graph: ir.Graph, node: ir.Node, data: tuple[Dim, ...], depth: int) -> None:
        self.graph, self.node, self.dims, self.depth = graph, node, data, depth
        self.shape: ir.Value | None = None

    def add(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        return insert_before(self.graph, self.node, op_type, *inputs, **attributes)

    def ints(self, *values: int) -> ir.Value:
        return add_constant(self.graph, numpy.array(values, dtype=numpy.int64), f"{self.node.outputs[0].name}_sizes")

    def whole(self) -> ir.Value:
        """The sizes of the data."""
        fixed = [size for size in self.dims if isinstance(size, int)]
        if len(fixed) == len(self.dims):
            return self.ints(*fixed)
        if self.shape is None:
            self.shape = self.add("Shape", self.node.inputs[0])
        return self.shape

    def size(self, axis: int) -> ir.Value:
        """The size of the data along an axis."""
        known = self.dims[axis]
        return self.ints(known) if isinstance(known, int) else self.add("Gather", self.whole(), self.ints(axis))

    def rows(self, value: ir.Value | None) -> ir.Value:
        """Data or updates with one axis for all points."""
        inner = self.dims[self.depth :]
        fixed = [size for size in inner if isinstance(size, int)]
        if len(fixed) == len(inner) and 0 not in fixed:
            return self.add("Reshape", value, self.ints(-1, *fixed))
        parts = [self.size(axis) for axis in range(self.depth, len(self.dims))]
        lead = self.add("Shape", value)
        if inner:
            lead = self.add("Slice", lead, self.ints(0), self.ints(-len(inner)))
        first = self.add("ReduceProd", lead, keepdims=1)
        sizes = self.add("Concat", first, *parts, axis=0) if parts else first
        return self.add("Reshape", value, sizes, allowzero=1)

    def index(self) -> ir.Value:
        """Points as rows, repeated for every element of the updates."""
        points = self.node.inputs[1]
        if self.depth > 1:
            flat = self._coordinate(0)
            for axis in range(1, self.depth):
                flat = self.add("Add", self.add("Mul", flat, self.size(axis)), self._coordinate(axis))
            points = flat
        inner = len(self.dims) - self.depth
        column = self.add("Reshape", points, self.ints(-1, *[1] * inner))
        return self.add("Expand", column, self.add("Shape", self.rows(self.node.inputs[2]))) if inner else column

    def _coordinate(self, axis: int) -> ir.Value:
        """(points, 1) positions along an axis, none negative."""
        taken = self.add("Gather", self.node.inputs[1], self.ints(axis), axis=-1)
        size = self.size(axis)
        return self.add("Where", self.add("Less", taken, self.ints(0)), self.add("Add", taken, size), taken)
