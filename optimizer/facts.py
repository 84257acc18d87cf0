"""What a report says of a program: counts, interface, and a picture of its graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from tersor.context import origin
from tersor.cost.flops import program_flops
from tersor.cost.shapes import numel
from tersor.program import Program, describe
from tersor.report.model import GraphPicture, ModelFacts

MOST_NODES = 3000
"""Larger graphs are drawn in part."""


def facts(program: Program) -> ModelFacts:
    """Counts of one graph."""
    counts = program_flops(program)
    weights = distinct_weights(program)
    return ModelFacts(
        operators=operators(program),
        parameters=sum(value.numel() for value in weights),
        parameter_bytes=sum(value.numel() * value.element_size() for value in weights),
        flops=counts.products,
        elementwise=counts.elementwise,
        uncounted=len(counts.unknown),
        inputs=_inputs(program),
        outputs=_outputs(program),
    )


def distinct_weights(program: Program) -> list[torch.Tensor]:
    """The weights; those that lie in the same memory, as tied embeddings do, once."""
    found: dict[object, torch.Tensor] = {}
    for value in program.weights.values():
        if isinstance(value, torch.Tensor):
            where = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride())
            found.setdefault(where if value.numel() else id(value), value)
    return list(found.values())


def operators(program: Program) -> dict[str, int]:
    """How many of each operator, the most frequent first."""
    names = (operator_name(program, node) for node in program.nodes if node.op == "call_function")
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def operator_name(program: Program, node: fx.Node) -> str:
    """The operator as a reader knows it: ATen's name, or the ONNX types inside an opaque node."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return getattr(target, "__name__", str(target))
    name = str(target._overloadpacket.__name__)
    if target.namespace == "tersor" and name == "opaque":
        return f"onnx:{'+'.join(opaque_types(program, node)) or '?'}"
    return name if target.namespace == "aten" else f"{target.namespace}.{name}"


def opaque_types(program: Program, node: fx.Node) -> list[str]:
    """ONNX operator types inside an opaque node, each once."""
    entry = program.opaque.get(str(node.args[1])) if len(node.args) > 1 else None
    return list(dict.fromkeys(proto.op_type for proto in getattr(entry, "nodes", ())))


def _inputs(program: Program) -> list[dict[str, str]]:
    return [
        {"name": name, "dtype": _dtype(value), "shape": describe(sizes, program.dimensions)}
        for name, value, sizes in zip(program.interface.input_names, program.inputs, program.sizes, strict=True)
    ]


def _outputs(program: Program) -> list[dict[str, str]]:
    names = symbol_names(program)
    rows = []
    for name, node in zip(program.interface.output_names, program.outputs, strict=True):
        value = node.meta.get("val")
        rows.append({"name": name, "dtype": _dtype(value), "shape": shape_text(value, names)})
    return rows


def _dtype(value: Any) -> str:
    return str(getattr(value, "dtype", "")).removeprefix("torch.")


def symbol_names(program: Program) -> dict[str, str]:
    """The user's name of each symbol that occurs in the graph's shapes."""
    names: dict[str, str] = {key: dimension.name for key, dimension in program.dimensions.items()}
    for node, sizes in zip(program.placeholders, program.sizes, strict=True):
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            continue
        for size, known in zip(value.shape, sizes, strict=True):
            if isinstance(size, torch.SymInt) and str(known) in program.dimensions:
                names[str(size)] = program.dimensions[str(known)].name
    return names


def shape_text(value: Any, names: Mapping[str, str]) -> str:
    """The shape of a node's value, with dynamic sizes by the user's names.

    >>> shape_text(torch.zeros(2, 3), {})
    '[2, 3]'
    """
    if isinstance(value, list | tuple):
        return ", ".join(shape_text(item, names) for item in value)
    if not isinstance(value, torch.Tensor):
        return "" if value is None else type(value).__name__
    return f"[{', '.join(_size_text(size, names) for size in value.shape)}]"


def _size_text(size: int | torch.SymInt, names: Mapping[str, str]) -> str:
    if isinstance(size, int):
        return str(size)
    expression = size.node.expr
    known = {symbol: type(symbol)(names[str(symbol)]) for symbol in expression.free_symbols if str(symbol) in names}
    return str(expression.xreplace(known))


def picture(
    program: Program, other: Program | None = None, *, mark: str = "added", limit: int = MOST_NODES
) -> GraphPicture:
    """The graph to draw, without weights.

    Args:
        program: what to draw.
        other: the program to compare with. A node that it does not hold gets ``mark``; one that it holds with
            another operator, option, shape or weight is "changed".
        mark: "added" where ``other`` came before, "removed" where it came after.
        limit: at most so many nodes are drawn, the marked ones first.
    """
    known = {} if other is None else _identities(other)
    own = _identities(program)
    marks = {node: _mark(node.name, own, known, mark) if other is not None else "" for node in _drawn(program)}
    chosen = _chosen(marks, limit)
    names = symbol_names(program)
    nodes = [_node(program, node, marks[node], names) for node in marks if node in chosen]
    edges = [(source.name, node.name) for node in marks for source in node.all_input_nodes if {source, node} <= chosen]
    left_out = len(marks) - len(chosen)
    note = f"{left_out} of {len(marks)} nodes are left out of the drawing" if left_out else ""
    return GraphPicture(nodes, edges, note)


def _drawn(program: Program) -> list[fx.Node]:
    return [node for node in program.nodes if node.op != "get_attr"]


def _chosen(marks: Mapping[fx.Node, str], limit: int) -> set[fx.Node]:
    ranked = sorted(marks, key=lambda node: not marks[node]) if len(marks) > limit else list(marks)
    return set(ranked[:limit])


def _mark(name: str, own: Mapping[str, object], known: Mapping[str, object], mark: str) -> str:
    if name not in known:
        return mark
    return "" if own[name] == known[name] else "changed"


def _identities(program: Program) -> dict[str, object]:
    """What makes a node the same in two programs: operator, options, result shape and the weights it reads."""
    names = symbol_names(program)
    found: dict[str, object] = {}
    for node in _drawn(program):
        weights = tuple(id(program.weight(source)) for source in node.all_input_nodes if source.op == "get_attr")
        options = fx.node.map_arg((node.args, node.kwargs), lambda argument: None) if node.op != "output" else ()
        found[node.name] = (str(node.target), repr(options), shape_text(node.meta.get("val"), names), weights)
    return found


def _origin(program: Program, node: fx.Node) -> str:
    """Where a node comes from; for an input its name in the interface."""
    if node.op != "placeholder":
        return origin(node)
    return program.interface.input_names[program.placeholders.index(node)]


def _node(program: Program, node: fx.Node, mark: str, names: Mapping[str, str]) -> dict[str, str]:
    shown = {"placeholder": "input", "output": "output"}
    return {
        "name": node.name,
        "operator": shown.get(node.op) or operator_name(program, node),
        "shape": shape_text(node.meta.get("val"), names) if node.op != "output" else "",
        "origin": _origin(program, node),
        "mark": mark,
        "weights": ", ".join(
            f"{source.target} ({numel(weight)})"
            for source in node.all_input_nodes
            if (weight := program.weight(source)) is not None
        ),
    }
