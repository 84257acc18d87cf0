"""Indexing by tensors, from ATen to ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnxscript.function_libs.torch_lib.ops.core import aten_index

from tersor.export.edit import int_attribute, is_op
from tersor.export.record import Value, op


def index(data: Value, indices: Sequence[Value | None]) -> Value:
    """``data[..., indices]``: Gather for one index, GatherND for the columns of a table of points.

    Everything else goes torch.onnx's way, six nodes and more: masks, and indices that have to be broadcast.
    """
    places = [place for place, item in enumerate(indices) if item is not None]
    given = [item for item in indices if item is not None]
    if any(item.dtype not in (ir.DataType.INT64, ir.DataType.INT32) for item in given):
        return aten_index(data, indices)
    if len(given) == 1:
        return op.Gather(data, given[0], axis=places[0])
    points = _table_of(given) if places == list(range(len(given))) else None
    return aten_index(data, indices) if points is None else op.GatherND(data, points)


def _table_of(columns: Sequence[Value]) -> Value | None:
    """The value whose last axis holds just these columns, in this order."""
    table = None
    for number, column in enumerate(columns):
        node = column.producer()
        if node is None or not is_op(node, "Gather") or (table is not None and node.inputs[0] is not table):
            return None
        table, chosen = node.inputs[0], ir.convenience.get_const_tensor(node.inputs[1])
        if chosen is None or chosen.shape != () or int(chosen.numpy()) != number or table.shape is None:
            return None
        if int_attribute(node, "axis", 0) not in (-1, len(table.shape) - 1) or table.shape[-1] != len(columns):
            return None
    return table
