"""Names, order, dynamic axes and metadata of the exported model, as the original has them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import onnx_ir as ir
import sympy
from onnx_ir.passes.common import NameFixPass

from tersor.errors import ExportError
from tersor.export.reexport import is_dynamic
from tersor.program import Program, Size, describe


def restore_interface(model: ir.Model, program: Program) -> None:
    """Give inputs, outputs and their axes the names of ``program.interface``, and the model its metadata.

    Raises:
        ExportError: an axis that is dynamic in the program is static in the model.
    """
    outputs_are_own_values(model, program)
    name_axes(model, program)
    _name_values(model, program)
    _write_metadata(model, program)


def outputs_are_own_values(model: ir.Model, program: Program) -> None:
    """Insert Identity where an output is an input, a constant, or a value that is returned twice."""
    seen: set[ir.Value] = set()
    wanted = dict(zip(program.interface.input_names, model.graph.inputs, strict=True))
    for index, value in enumerate(list(model.graph.outputs)):
        passed_through = wanted.get(program.interface.output_names[index]) is value
        if not passed_through and (value.producer() is None or value in seen):
            copied = ir.Value(shape=value.shape, type=value.type)
            model.graph.append(ir.Node("", "Identity", [value], outputs=[copied]))
            model.graph.outputs[index] = value = copied
        seen.add(value)


def name_axes(model: ir.Model, program: Program) -> None:
    """Rename the dimensions that torch.export made up to the program's, in every value.

    Raises:
        ExportError: an axis that is dynamic in the program is static in the model.
    """
    names: dict[str, str] = {}
    for value, name, sizes in zip(model.graph.inputs, program.interface.input_names, program.sizes, strict=True):
        shape = value.shape if value.shape is not None else ir.Shape([None] * len(sizes))
        for axis, (size, found) in enumerate(zip(sizes, shape, strict=True)):
            if not is_dynamic(size):
                continue
            if isinstance(found, int):
                raise _static_axis(program, name, axis, found)
            names.setdefault(str(found.value), _text(size, program))
            _name_symbol(size, found, program, names)
    _check_outputs(model, program)
    for value in all_values(model):
        if value.shape is not None and not value.shape.is_static():
            value.shape = ir.Shape([_renamed(dim, names) for dim in value.shape])
    _original_names(model, program)


def _original_names(model: ir.Model, program: Program) -> None:
    """Axes of inputs and outputs are called as the original file calls them."""
    interface = program.interface
    for values, names in ((model.graph.inputs, interface.input_names), (model.graph.outputs, interface.output_names)):
        for value, name in zip(values, names, strict=True):
            if value.shape is not None:
                dims = [
                    dim if isinstance(dim, int) else interface.axis_names.get((name, axis), dim.value)
                    for axis, dim in enumerate(value.shape)
                ]
                value.shape = ir.Shape(dims)


def _static_axis(program: Program, name: str, axis: int, found: int) -> ExportError:
    wanted = _text(program.sizes[program.interface.input_names.index(name)][axis], program)
    return ExportError(
        f"axis {axis} of input '{name}' (dynamic dimension '{wanted}') became the constant {found}",
        f"some operator computes with the example's {found}: compute it from the input's size, give example inputs "
        f"where '{wanted}' is neither 0 nor 1, or declare the axis static",
    )


def _check_outputs(model: ir.Model, program: Program) -> None:
    for value, node, name in zip(model.graph.outputs, program.outputs, program.interface.output_names, strict=True):
        expected = getattr(node.meta.get("val"), "shape", None)
        if value.shape is None or expected is None or len(expected) != len(value.shape):
            continue
        for axis, (size, found) in enumerate(zip(expected, value.shape, strict=True)):
            if not isinstance(size, int) and isinstance(found, int) and not size.node.expr.is_Integer:
                wanted = _text(size.node.expr, program)
                raise ExportError(
                    f"axis {axis} of output '{name}' is {wanted} but became the constant {found}",
                    "some operator uses the example's size: compute it from the inputs, or declare the axis static",
                )


def _text(size: Size, program: Program) -> str:
    return describe((size,), program.dimensions)[1:-1]


def _name_symbol(size: Size, found: ir.SymbolicDim, program: Program, names: dict[str, str]) -> None:
    """Where an axis is a multiple of a symbol, the symbol itself gets a name too: other sizes are made from it."""
    symbols = re.findall(r"[A-Za-z_]\w*", str(found.value))
    own = sorted(map(str, size.free_symbols)) if isinstance(size, sympy.Expr) else []
    if len(set(symbols)) == 1 and len(own) == 1 and own[0] in program.dimensions:
        dimension = program.dimensions[own[0]]
        names.setdefault(symbols[0], dimension.name if dimension.step == 1 else f"({dimension.name}/{dimension.step})")


def _renamed(dim: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | str | None:
    if isinstance(dim, int) or dim.value is None:
        return dim if isinstance(dim, int) else None
    text = str(dim.value)
    return names.get(text) or re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), text)


def all_values(model: ir.Model) -> Iterator[ir.Value]:
    """Inputs, initializers and results of the main graph and of every subgraph."""
    yield from model.graph.inputs
    yield from list(model.graph.initializers.values())
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        yield from node.outputs


def _name_values(model: ir.Model, program: Program) -> None:
    interface = program.interface
    taken = {*interface.input_names, *interface.output_names}
    for value in all_values(model):
        if value.name in taken:
            value.name = f"{value.name}_inner"
    for value, name in zip(model.graph.outputs, interface.output_names, strict=True):
        value.name = name
    for value, name in zip(model.graph.inputs, interface.input_names, strict=True):
        value.name = name
    NameFixPass()(model)


def _write_metadata(model: ir.Model, program: Program) -> None:
    metadata = program.interface.metadata
    model.metadata_props.update({str(k): str(v) for k, v in dict(metadata.get("metadata_props") or {}).items()})
    model.doc_string = metadata.get("doc_string") or None
    model.domain = metadata.get("domain") or None
    model.model_version = metadata.get("model_version") or None
    model.graph.name = metadata.get("graph_name") or "main_graph"
    model.graph.doc_string = metadata.get("graph_doc_string") or None
    model.producer_name = "tersor"
    model.producer_version = None
