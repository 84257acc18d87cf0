"""Element types that a translation did not give to the values on its way, and sizes that it gave as text."""

from __future__ import annotations

import onnx_ir as ir

from tersor.export.edit import int_attribute

_AS_FIRST_NAMES = """
    Abs Add And Ceil Clip Concat Conv ConvTranspose CumSum Div Exp Expand Floor Gather GatherElements GatherND Gemm
    Identity InstanceNormalization LayerNormalization Log MatMul Max Min Mod Mul Neg Not Pad Pow Reciprocal ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize Round ScatterElements ScatterND Sigmoid Slice
    Softmax Split Sqrt Squeeze Sub Tanh Tile Transpose Trilu Unsqueeze"""
_AS_FIRST = frozenset(_AS_FIRST_NAMES.split())
_BOOLEAN = ("Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual")


def read_sizes(graph: ir.Graph) -> None:
    """Make sizes that torch.export proved to be one number, and wrote as a symbol of that name, the number."""
    for value in (value for node in graph for value in node.outputs):
        if value.shape is not None and not value.shape.frozen:
            for axis, size in enumerate(value.shape):
                if not isinstance(size, int) and str(size.value).isdecimal():
                    value.shape[axis] = int(str(size.value))


def infer_types(graph: ir.Graph) -> None:
    """Fill in missing element types in one walk; what is not plain stays unknown."""
    for node in graph:
        for value in node.outputs if not node.domain else ():
            if value.dtype is None:
                found = _dtype(node)
                if found is not None:
                    value.dtype = found


def _dtype(node: ir.Node) -> ir.DataType | None:
    if node.op_type in _AS_FIRST:
        return _of(node, 0)
    if node.op_type in _BOOLEAN:
        return ir.DataType.BOOL
    if node.op_type in ("Shape", "Size", "ArgMax", "ArgMin", "NonZero"):
        return ir.DataType.INT64
    if node.op_type in ("CastLike", "Where"):
        return _of(node, 1)
    return ir.DataType(int_attribute(node, "to", 1)) if node.op_type == "Cast" else None


def _of(node: ir.Node, index: int) -> ir.DataType | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else value.dtype
