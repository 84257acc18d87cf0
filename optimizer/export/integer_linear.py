"""Quantized linear layers, written so that ONNX Runtime computes them on integers.

It turns a product over more than two axes of fixed sizes and the bias behind it into reshapes around a Gemm
(core/optimizer/matmul_add_fusion.cc) before it looks for quantized products, which it then no longer finds: the layer
is computed in floating point, with conversions around it. It does so only for a bias of one dimension.
"""

from __future__ import annotations

import onnx_ir as ir

from tersor.export.edit import add_constant, dims_of, is_op, only_use


def widen_biases(graph: ir.Graph) -> None:
    """Give the bias behind a quantized product over more than two axes as many dimensions as the product has."""
    for node in list(graph):
        if not is_op(node, "MatMul") or not all(map(_dequantized, node.inputs[:2])) or not only_use(node.outputs[0]):
            continue
        reader = next(iter(node.outputs[0].consumers()))
        dims = dims_of(reader.outputs[0])
        if dims is None or len(dims) < 3 or not is_op(reader, "Add"):
            continue
        for place, value in enumerate(reader.inputs):
            constant = None if value is None or value.is_graph_input() else value.const_value
            if value is not None and constant is not None and len(constant.shape) == 1:
                array = constant.numpy().reshape([1] * (len(dims) - 1) + [-1])
                reader.replace_input_with(place, add_constant(graph, array, f"{value.name}_wide"))


def _dequantized(value: ir.Value | None) -> bool:
    made_by = None if value is None else value.producer()
    if is_op(made_by, "Transpose") and made_by is not None:
        return _dequantized(made_by.inputs[0])
    return is_op(made_by, "DequantizeLinear")
