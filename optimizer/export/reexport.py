"""From a `Program` to the `torch.export.ExportedProgram` that the ONNX translation starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch import fx
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_shapes

from tersor.capture.signature import tables_made_once
from tersor.errors import ExportError, first_line
from tersor.program import Program, Size

_UNBOUNDED = 2**31 - 1


def reexport(program: Program) -> ExportedProgram:
    """Trace the program again, so that whatever a pass inserted becomes ATen operators with fresh shapes.

    Each symbol of the program is one named dimension. Where torch.export rejects that, because it found a relation
    that the symbols do not say, it names the dimensions itself; `interface.name_axes` sees whether one became static.

    Raises:
        ExportError: torch.export refuses the graph.
    """
    module = program.module()
    dims = {
        symbol: Dim(symbol, min=dimension.minimum, max=dimension.maximum or _UNBOUNDED)
        for symbol, dimension in program.dimensions.items()
    }
    try:
        return _export(module, program, lambda size: _derived(size, dims))
    except Exception:
        try:
            return _export(module, program, lambda size: Dim.AUTO)
        except Exception as error:
            raise ExportError(
                f"torch.export refuses the program: {first_line(error)}",
                "run the passes one at a time to find the one that wrote this graph",
            ) from error


def _export(module: torch.nn.Module, program: Program, dim: Callable[[Any], Any]) -> ExportedProgram:
    shapes = tuple(
        {axis: dim(size) if is_dynamic(size) else Dim.STATIC for axis, size in enumerate(sizes)}
        for sizes in program.sizes
    )
    with torch.no_grad(), _oblivious_to_ones(), tables_made_once():
        exported = torch.export.export(module, program.inputs, dynamic_shapes=shapes, strict=False)
    _decompose_only_where_needed(exported)
    return exported


def _decompose_only_where_needed(exported: ExportedProgram) -> None:
    """Save torch.onnx a second trace, half of its time, where its table of decompositions has nothing of the graph."""
    original = exported.run_decompositions

    def run_decompositions(table: Mapping[Any, Any] | None = None) -> ExportedProgram:
        graphs = [module.graph for module in exported.graph_module.modules() if isinstance(module, fx.GraphModule)]
        targets = {node.target for graph in graphs for node in graph.nodes}
        if table is None or any(target in table for target in targets):
            with tables_made_once():
                return original(None if table is None else dict(table))
        return exported

    exported.run_decompositions = run_decompositions  # type: ignore[assignment,method-assign,unused-ignore]


def _derived(size: sympy.Expr, dims: Mapping[str, Any]) -> Any:
    """The dimension for a size: one of the program's, or a whole multiple of one plus a constant."""
    symbols = sorted(size.free_symbols, key=str)
    dim = dims.get(str(symbols[0])) if len(symbols) == 1 else None
    if dim is None or size.is_Symbol:
        return dim or Dim.AUTO
    factor = size.coeff(symbols[0])
    offset = size - factor * symbols[0]
    if not factor.is_Integer or not offset.is_Integer or factor < 1:
        return Dim.AUTO
    scaled = dim * int(factor) if factor != 1 else dim
    return scaled + int(offset) if offset else scaled


@contextmanager
def _oblivious_to_ones() -> Iterator[None]:
    """Sizes of 0 and 1 in the example are not specialised; the ONNX exporter traces in the same way."""
    with symbolic_shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        yield


def is_dynamic(size: Size) -> bool:
    """Whether an axis of this size may differ from call to call.

    >>> is_dynamic(3), is_dynamic(sympy.Symbol("s0")), is_dynamic(sympy.Integer(3))
    (False, True, False)
    """
    return isinstance(size, sympy.Expr) and not size.is_Integer
