"""A program as the ONNX that TensorRT builds from: strongly typed, stored weights behind DequantizeLinear.

Types need no work here: a program says each of them, and the exporter writes its casts. What differs from other
runtimes is how stored weights are read, and that attention stays one node where the parser knows it.
"""

from __future__ import annotations

import numpy
import onnx_ir as ir

from tersor.backends._tensorrt_operators import SINCE
from tersor.backends._tensorrt_options import LATEST, Version
from tersor.export import to_onnx_model
from tersor.export.edit import add_constant, constant_array, dims_of, is_op, replace
from tersor.export.model import ATTENTION_OPSET
from tersor.export.quantized import store_weights
from tersor.program import Program
from tersor.rewrite_values import key


def to_tensorrt_model(program: Program, version: Version = LATEST) -> ir.Model:
    """The program in ONNX, laid out for TensorRT; raises ExportError.

    Attention stays one node, at opset 23, where the program has any and the version takes it and what else that opset
    writes: 10.14 takes Attention, but neither the RMSNormalization nor the RotaryEmbedding that most decoders have too.
    """
    whole = any(key(node) == "scaled_dot_product_attention" for node in program.nodes)
    if whole and version >= SINCE["Attention"]:
        foreign = [node.opset_imports.get("", 0) for node in program.opaque.values()]
        opset = max([ATTENTION_OPSET, *foreign])
        made = to_onnx_model(program, opset, keep_attention=True, layout=for_tensorrt)
        if all(version >= SINCE.get(node.op_type, version) for node in made.graph):
            return made
    return to_onnx_model(program, keep_attention=False, layout=for_tensorrt)


def for_tensorrt(graph: ir.Graph) -> None:
    """The layout of quantized and stored weights, see `tersor.export.clean.Layout`."""
    store_weights(graph, keep_eight_bits=True)
    for node in list(graph):
        if is_op(node, "Mul"):
            _take_back_floats(graph, node)
        elif is_op(node, "Attention"):
            _widen_mask(graph, node)


def _take_back_floats(graph: ir.Graph, node: ir.Node) -> None:
    """A float8 weight that is cast and scaled, as one DequantizeLinear: what TensorRT's float8 kernels look for."""
    for cast, scale in (node.inputs, node.inputs[::-1]):
        made_by = cast.producer() if cast is not None else None
        factors = constant_array(scale, 2**20)
        if made_by is None or not is_op(made_by, "Cast") or factors is None:
            continue
        level = made_by.inputs[0]
        if level is None or level.const_value is None or level.dtype not in _FLOATS:
            continue
        rows = int(level.const_value.shape.numpy()[0])
        if factors.shape[:1] != (rows,) or factors.size != rows:
            continue
        flat = add_constant(graph, numpy.ascontiguousarray(factors.reshape(-1)), f"{level.name}_scale")
        taken = ir.node("DequantizeLinear", [level, flat], {"axis": 0}, version=node.version, name=node.name)
        taken.outputs[0].name = f"{node.outputs[0].name}_taken_back"
        graph.insert_before(node, taken)
        replace(graph, node, taken.outputs[0])
        return


_FLOATS = (ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2)


def _widen_mask(graph: ir.Graph, node: ir.Node) -> None:
    """TensorRT's masks have four axes."""
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    dims = dims_of(mask)
    if mask is None or dims is None or len(dims) >= 4:
        return
    missing = 4 - len(dims)
    axes = add_constant(graph, numpy.arange(missing, dtype=numpy.int64), f"{mask.name}_axes")
    wide = ir.node("Unsqueeze", [mask, axes], version=node.version, name=f"{node.name}_mask")
    made = wide.outputs[0]
    made.name, made.type, made.shape = f"{mask.name}_wide", mask.type, ir.Shape([1] * missing + list(mask.shape or ()))
    graph.insert_before(node, wide)
    node.replace_input_with(3, made)
