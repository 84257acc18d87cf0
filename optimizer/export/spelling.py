"""Of several ways to write the same node, the one that runtimes' fusions look for."""

from __future__ import annotations

import onnx_ir as ir

from tersor.export.edit import dims_of, int_attribute, is_op


def spell(graph: ir.Graph) -> None:
    """Rewrite attributes in place; values stay the same.

    OpenVINO makes one kernel of a rotary embedding only where halves are joined along axis -1, by that name
    (transformations/common_optimizations/fuse_rotary_positional_embeddings.cpp). Lists of sizes, which are vectors,
    stay as other fusions know them.
    """
    for node in graph:
        if is_op(node, "Concat"):
            dims = dims_of(node.outputs[0]) or dims_of(node.inputs[0])
            if dims is not None and len(dims) > 2 and int_attribute(node, "axis", 0) == len(dims) - 1:
                node.attributes["axis"] = ir.AttrInt64("axis", -1)
