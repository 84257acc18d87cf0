"""Nodes that an ONNX file had and torch cannot express: written back as they were, in the place of a placeholder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx
import onnx_ir as ir
from onnx import AttributeProto, NodeProto

from tersor.errors import ExportError
from tersor.export.placeholders import OPAQUE_DOMAIN

_DEFAULT = ("", "ai.onnx")


def restore_verbatim(model: ir.Model, opaque: Mapping[str, Any]) -> None:
    """Replace each placeholder by the original nodes, subgraphs, functions and opset imports included.

    Raises:
        ExportError: the nodes were written for another version of their operators than the model's, and cannot be
            raised to it.
    """
    for placeholder in list(model.graph):
        if placeholder.domain == OPAQUE_DOMAIN:
            _restore(model, placeholder, opaque[placeholder.attributes["key"].as_string()])
    model.opset_imports.pop(OPAQUE_DOMAIN, None)


def _restore(model: ir.Model, placeholder: ir.Node, original: Any) -> None:
    source = ir.from_proto(_at_opset(original, model.opset_imports[""]))
    graph, target = source.graph, model.graph
    outputs = {value.name: value for value in graph.outputs}
    for value, actual in zip(graph.inputs, placeholder.inputs, strict=True):
        value.replace_all_uses_with(actual, replace_graph_outputs=True)  # type: ignore[arg-type]
    for value in list(graph.initializers.values()):
        graph.initializers.pop(str(value.name))
        _register(target, value)
    found = [outputs[name] for name in original.outputs]
    graph.outputs.clear()
    for node in list(graph):
        graph.remove(node)
        target.insert_before(placeholder, node)
    for old, new in zip(placeholder.outputs, found, strict=True):
        new.shape, new.type = old.shape, old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    target.remove(placeholder, safe=True)
    _import(model, source)


def _register(graph: ir.Graph, value: ir.Value) -> None:
    name, count = value.name or "constant", 0
    while name in graph.initializers:
        count += 1
        name = f"{value.name}_{count}"
    value.name = name
    graph.register_initializer(value)


def _import(model: ir.Model, source: ir.Model) -> None:
    used = {node.domain for node in ir.traversal.RecursiveGraphIterator(model.graph)}
    for identifier, function in source.functions.items():
        model.functions.setdefault(identifier, function)
        used |= {*function.opset_imports, function.domain}
    for domain, version in source.opset_imports.items():
        if domain in used and domain not in _DEFAULT:
            model.opset_imports[domain] = max(version, model.opset_imports.get(domain, 0))


def _at_opset(original: Any, wanted: int) -> onnx.ModelProto:
    """The nodes as a model of their own, in the exported model's version of the default domain."""
    written = next((v for d, v in original.opset_imports.items() if d in _DEFAULT), wanted)
    typed = [onnx.ValueInfoProto(name=name) for name in original.inputs]
    model: onnx.ModelProto = original.model(typed)
    changed = {node.op_type for node in _all_nodes(model) if _meaning_changed(node, written, wanted)}
    if not changed:
        return model
    try:
        raised: onnx.ModelProto = onnx.version_converter.convert_version(model, wanted)
    except Exception as error:  # the converter raises its own class, and RuntimeError for what it does not know
        raise _unraisable(changed, written, wanted) from error
    if [o.name for o in raised.graph.output] != list(original.outputs):
        raise _unraisable(changed, written, wanted)
    return raised


def _unraisable(operators: set[str], written: int, wanted: int) -> ExportError:
    return ExportError(
        f"{', '.join(sorted(operators))} is kept as the file has it; opset {written} and {wanted} differ in it",
        f"export with opset {written}" if written >= 18 else "keep the original file",
    )


def _all_nodes(model: onnx.ModelProto) -> Iterator[NodeProto]:
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
            pending.extend(inner for graph in graphs for inner in graph.node)


def _meaning_changed(node: NodeProto, written: int, wanted: int) -> bool:
    if node.domain not in _DEFAULT or written == wanted:
        return False
    try:
        versions = {onnx.defs.get_schema(node.op_type, version, "").since_version for version in (written, wanted)}
    except onnx.defs.SchemaError:
        return True
    return len(versions) > 1
