"""From an `ExportedProgram` to a `Program`: decompose, drop fixed inputs, name dynamic dimensions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import fx
from torch.export import ExportedProgram

from tersor.capture.decompose import table
from tersor.capture.functional import make_functional
from tersor.capture.inline import attribute, inline_wrappers
from tersor.capture.signature import tables_made_once
from tersor.errors import CaptureError
from tersor.interface import Flat, Interface
from tersor.program import Dimension, Program, Size


def from_exported(
    exported: ExportedProgram,
    leaves: Sequence[Any],
    names: Mapping[tuple[int, int], str] | None = None,
    *,
    parameters: inspect.Signature | None = None,
    in_spec: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Program:
    """Build a program.

    Args:
        exported: any exported program; it is decomposed to functional ATen here.
        leaves: the flat example arguments, one per placeholder.
        names: names for dynamic dimensions, by (leaf position, axis).
        parameters, in_spec: the calling convention, see `Interface`.
    """
    graph, weights = _detach(_functional(exported))
    out_spec = exported.call_spec.out_spec
    kept = _drop_fixed_inputs(graph, leaves)
    inputs: Flat = tuple(leaves[position] for position in kept)
    called = tuple(input_names or (node.name for node in graph.find_nodes(op="placeholder")))
    sizes, dimensions = _dimensions(graph, _axis_names(kept, called, names or {}), exported)
    out_leaves, out_fixed = _flatten_outputs(graph)
    interface = Interface(
        input_names=called,
        output_names=tuple(output_names or _output_names(graph)),
        parameters=parameters,
        in_spec=in_spec,
        in_leaves=tuple(kept.index(p) if p in kept else None for p in range(len(leaves))),
        fixed={p: leaf for p, leaf in enumerate(leaves) if p not in kept},
        out_spec=out_spec if parameters is not None else None,
        out_leaves=out_leaves,
        out_fixed=out_fixed,
    )
    return Program(graph, weights, inputs, sizes, dimensions, interface)


def _functional(exported: ExportedProgram) -> torch.nn.Module:
    """A module whose graph writes into nothing; CaptureError where it has to."""
    module = _module(exported)
    if make_functional(module.graph):
        return module
    with tables_made_once():
        return _module(exported.run_decompositions(table()))


def _module(exported: ExportedProgram) -> fx.GraphModule:
    _refuse_mutation(exported)
    module = exported.module(check_guards=False)
    inline_wrappers(module)
    return module


def _refuse_mutation(exported: ExportedProgram) -> None:
    signature = exported.graph_signature
    mutated = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
    if mutated:
        raise CaptureError(
            f"the model writes into {', '.join(map(repr, mutated[:3]))} on each call",
            "call model.eval(), or return the new value instead of writing it",
        )


def _detach(module: torch.nn.Module) -> tuple[fx.Graph, dict[str, Any]]:
    graph = fx.Graph()
    source: fx.Graph = module.graph  # type: ignore[assignment]
    values: dict[fx.Node, fx.Node] = {}
    outputs = graph.graph_copy(source, values)
    graph.output(outputs)
    weights: dict[str, Any] = {}
    for node in graph.find_nodes(op="get_attr"):
        value = attribute(module, str(node.target))
        weights[str(node.target)] = value.detach() if isinstance(value, torch.Tensor) else value
    for node in list(reversed(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    return graph, weights


def _drop_fixed_inputs(graph: fx.Graph, leaves: Sequence[Any]) -> list[int]:
    placeholders = list(graph.find_nodes(op="placeholder"))
    if len(placeholders) != len(leaves):
        raise CaptureError(f"the captured graph has {len(placeholders)} inputs for {len(leaves)} example values")
    for node, leaf in zip(placeholders, leaves, strict=True):
        if not isinstance(leaf, torch.Tensor):
            if node.users:
                raise CaptureError(f"input {node.name!r} is a {type(leaf).__name__} that the graph computes with")
            graph.erase_node(node)
    return [position for position, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]


def _axis_names(
    kept: Sequence[int], inputs: Sequence[str], names: Mapping[tuple[int, int], str]
) -> Callable[[int, int], str]:
    """The name of an axis of an input, by their positions: as the user calls it, else after the input."""
    return lambda position, axis: (
        names.get((kept[position], axis)) or f"{re.sub(r'[^A-Za-z0-9_]', '_', inputs[position])}_dim{axis}"
    )


def _dimensions(
    graph: fx.Graph, name_of: Callable[[int, int], str], exported: ExportedProgram
) -> tuple[tuple[tuple[Size, ...], ...], dict[str, Dimension]]:
    sizes: list[tuple[Size, ...]] = []
    dimensions: dict[str, Dimension] = {}
    for position, node in enumerate(graph.find_nodes(op="placeholder")):
        row = tuple(_size(size) for size in node.meta["val"].shape)
        sizes.append(row)
        for axis, size in enumerate(row):
            for symbol in sorted(getattr(size, "free_symbols", ()), key=str):
                known = dimensions.get(symbol.name)
                if known is None or (known.step != 1 and size == symbol):
                    hint = _hint(node.meta["val"].shape[axis].node.shape_env, symbol)
                    step = _step(size, symbol)
                    dimensions[symbol.name] = _dimension(name_of(position, axis), symbol, hint, step, exported)
    return tuple(sizes), dimensions


def _step(size: Any, symbol: sympy.Symbol) -> int:
    """The factor of a size that is a whole multiple of the symbol, else 1."""
    factor = size.coeff(symbol)
    return int(factor) if size == factor * symbol else 1


def _hint(shape_env: Any, symbol: sympy.Symbol) -> int:
    """The symbol's value in the example; the table has another name since torch 2.12."""
    values = shape_env.backed_var_to_val if hasattr(shape_env, "backed_var_to_val") else shape_env.var_to_val
    return int(values[symbol])


def _size(size: Any) -> Size:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression) if expression.is_Integer else expression


def _dimension(name: str, symbol: sympy.Symbol, hint: int, step: int, exported: ExportedProgram) -> Dimension:
    bounds = exported.range_constraints.get(symbol)
    upper = None if bounds is None or not bounds.upper.is_Integer else int(bounds.upper)
    lower = 1 if bounds is None or not bounds.lower.is_Integer else max(1, int(bounds.lower))
    return Dimension(name, symbol.name, hint, lower, None if upper and upper > 2**40 else upper, step)


def _flatten_outputs(graph: fx.Graph) -> tuple[tuple[int | None, ...], dict[int, Any]]:
    node = next(iter(reversed(graph.nodes)))
    returned = node.args[0] if isinstance(node.args[0], tuple | list) else (node.args[0],)
    slots: list[int | None] = []
    fixed: dict[int, Any] = {}
    kept: list[fx.Node] = []
    for position, value in enumerate(returned):
        if isinstance(value, fx.Node):
            slots.append(len(kept))
            kept.append(value)
        else:
            slots.append(None)
            fixed[position] = value
    if not kept:
        raise CaptureError("the model returns no tensor that depends on the graph")
    node.args = (tuple(kept),)
    return tuple(slots), fixed


def _output_names(graph: fx.Graph) -> list[str]:
    returned = next(iter(reversed(graph.nodes))).args[0]
    names: list[str] = []
    for position, node in enumerate(returned):
        name = node.name if node.op != "placeholder" else f"{node.name}_out"
        names.append(name if name not in names else f"{name}_{position}")
    return names
