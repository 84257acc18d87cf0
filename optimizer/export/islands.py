"""Layers left in floating point between quantized tensors, written so that runtimes leave them there.

ONNX Runtime gives the weight of such a layer eight bits of its own accord, with one scale for all of it
(core/optimizer/qdq_transformer/weight_bias_quantization.cc): on EfficientNet-Lite0, six depthwise convolutions then
double the error of the whole network. It only does so where the scale of what the layer reads is a single number.
"""

from __future__ import annotations

import numpy
import onnx_ir as ir

from tersor.export.edit import add_constant, int_attribute, is_op, only_use

LAYERS = ("Conv", "ConvTranspose", "Gemm")
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu")


def keep_islands(graph: ir.Graph) -> None:
    """Give what these layers read one scale per channel, all of them equal."""
    for node in list(graph):
        if is_op(node, *LAYERS) and _is_constant(node.inputs[1]) and _is_quantized_later(node):
            source = node.inputs[0].producer() if node.inputs[0] is not None else None
            if source is not None and is_op(source, "DequantizeLinear") and _is_constant(source.inputs[1]):
                _spread(graph, node, source)


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and not value.is_graph_input()


def _is_quantized_later(node: ir.Node) -> bool:
    """Whether a layer's result, or what an activation makes of it, is quantized and nothing else."""
    result = node.outputs[0]
    if not only_use(result):
        return False
    reader = next(iter(result.consumers()))
    return is_op(reader, "QuantizeLinear") or (is_op(reader, *ACTIVATIONS) and _is_quantized_later(reader))


def _spread(graph: ir.Graph, node: ir.Node, source: ir.Node) -> None:
    level, scale, *zero = source.inputs
    assert scale is not None and scale.const_value is not None
    if level is None or scale.const_value.size != 1:
        return
    values = [level, *(_repeated(graph, value, _channels(node)) for value in (scale, *zero) if value is not None)]
    made = ir.node("DequantizeLinear", values, {"axis": 1}, version=source.version, name=f"{source.name}_channels")
    old, new = source.outputs[0], made.outputs[0]
    new.name, new.shape, new.type = f"{old.name}_channels", old.shape, old.type
    graph.insert_before(node, made)
    node.replace_input_with(0, new)


def _channels(node: ir.Node) -> int:
    """Of what a layer reads, from its weight's shape."""
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    shape = weight.const_value.shape.numpy()
    if node.op_type == "Conv":
        return int(shape[1]) * int_attribute(node, "group", 1)
    return int(shape[1] if int_attribute(node, "transB", 0) else shape[0])


def _repeated(graph: ir.Graph, value: ir.Value, times: int) -> ir.Value:
    assert value.const_value is not None
    return add_constant(graph, numpy.repeat(value.const_value.numpy().reshape(1), times), f"{value.name}_channels")
