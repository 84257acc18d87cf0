"""The clean-up between torch.onnx's translation and the file: fewer nodes, same values, dynamic axes untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common

from tersor.export.constants import fold_constants, lift_constants, merge_duplicates
from tersor.export.dynamic_quantized import integer_products
from tersor.export.fuse import fuse
from tersor.export.integer_linear import widen_biases
from tersor.export.islands import keep_islands
from tersor.export.masks import add_masks
from tersor.export.noops import remove_noops
from tersor.export.quantized import store_weights
from tersor.export.rotary import fuse_rotary
from tersor.export.scatter import order_scatters
from tersor.export.shapes import simplify_shapes
from tersor.export.spelling import spell
from tersor.export.types import infer_types, read_sizes

_ROUNDS = 4
_RANDOM = frozenset(
    ("RandomUniform", "RandomNormal", "RandomUniformLike", "RandomNormalLike", "Multinomial", "Bernoulli")
)


Layout = Callable[[ir.Graph], None]
"""The last step: quantized and stored weights as one runtime wants them."""


def for_cpu_runtimes(graph: ir.Graph) -> None:
    """The layout that ONNX Runtime and OpenVINO fuse."""
    integer_products(graph)
    store_weights(graph)
    widen_biases(graph)
    keep_islands(graph)


def clean(model: ir.Model, layout: Layout = for_cpu_runtimes) -> None:
    """Simplify a freshly translated model in place, and lay it out for a runtime.

    Shapes of values hold torch.export's symbols: equal text is an equal size. Each round is linear in the graph.
    """
    common.InlinePass()(model)
    graph = model.graph
    lift_constants(graph)
    infer_types(graph)
    read_sizes(graph)
    remove_unused(model)
    for _ in range(_ROUNDS):
        merge_duplicates(graph)
        steps = (
            fold_constants,
            order_scatters,
            remove_noops,
            merge_equal,
            simplify_shapes,
            fuse,
            fuse_rotary,
            add_masks,
        )
        changed = [step(graph) for step in steps]
        remove_unused(model)
        if not any(changed):
            break
    layout(graph)
    spell(graph)
    merge_duplicates(graph)
    remove_unused(model)
    forget_metadata(model)


def forget_metadata(model: ir.Model) -> None:
    """Drop what torch.onnx notes of itself, such as stack traces with the paths of this machine."""
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def remove_unused(model: ir.Model) -> None:
    """Remove nodes, initializers, functions and opset imports that nothing needs."""
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)


def merge_equal(graph: ir.Graph) -> bool:
    """Common subexpressions: nodes of the default domains with equal inputs and attributes become one."""
    seen: dict[Any, ir.Node] = {}
    changed = False
    for node in list(graph):
        key = _key(node)
        if key is None:
            continue
        kept = seen.setdefault(key, node)
        if kept is not node:
            for old, new in zip(node.outputs, kept.outputs, strict=True):
                old.replace_all_uses_with(new, replace_graph_outputs=True)
            graph.remove(node, safe=True)
            changed = True
    return changed


def _key(node: ir.Node) -> Any:
    if node.domain not in ("", "ai.onnx.ml") or node.op_type in _RANDOM:
        return None
    attributes = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS, ir.AttributeType.TENSORS):
            return None
        value = attribute.value
        if attribute.type == ir.AttributeType.TENSOR:
            tensor: Any = value
            if tensor.size > 16 or tensor.dtype == ir.DataType.STRING:
                return None
            value = (tensor.dtype, tuple(tensor.shape), tensor.tobytes())
        attributes.append((name, tuple(value) if isinstance(value, list | tuple) else value))
    inputs = tuple(None if value is None else id(value) for value in node.inputs)
    return (node.domain, node.op_type, len(node.outputs), inputs, tuple(attributes))


_STEPS = (
    fold_constants, order_scatters, remove_noops, merge_equal, simplify_shapes, fuse, fuse_rotary, add_masks,
)  # fmt: skip
"""What each round does, in this order."""
