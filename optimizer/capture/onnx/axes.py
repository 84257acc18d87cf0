"""Dynamic axes of an ONNX file under torch.export: kept dynamic where possible, reported where not."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.export.dynamic_shapes import refine_dynamic_shapes_from_suggested_fixes
from torch.fx.traceback import preserve_node_meta

from tersor.capture.onnx.examples import axis_key, is_dynamic
from tersor.capture.onnx.interface import Interface
from tersor.errors import CaptureError, InputError

_FIX = re.compile(r"^\s*\w+ = ")
_MULTIPLE = re.compile(r"^\s*(\w+) = \d+\*", re.MULTILINE)
"""A suggestion that an axis be a multiple: taken only where the original model refuses other sizes too."""

_FIXED = re.compile(r"^\s*\w+ = \d+\s*$", re.MULTILINE)
"""A suggestion to fix an axis: not taken, since inferred axes may still keep it open within a range."""

Shapes = dict[str, dict[int, Any] | None]
Accepts = Callable[[Mapping[str, torch.Tensor] | None], bool]


def dynamic_axes(
    interface: Interface, example: Mapping[str, torch.Tensor], wanted: Mapping[str, Any] | Sequence[Any] | None
) -> tuple[Shapes, list[str]]:
    """Dynamic shapes by input, and notes on axes that cannot be dynamic."""
    names = [port.name for port in interface.inputs]
    if wanted is not None:
        given = dict(wanted) if isinstance(wanted, Mapping) else dict(zip(names, wanted, strict=True))
        unknown = set(given) - set(names)
        if unknown:
            raise InputError(f"dynamic axes for {sorted(unknown)}", f"the inputs are {names}")
        return {name: given.get(name) for name in names}, []
    dims: dict[str, Any] = {}
    shapes: Shapes = {}
    notes: list[str] = []
    for port in interface.inputs:
        axes: dict[int, Any] = {}
        for axis, size in enumerate(port.shape or [None] * example[port.name].dim()):
            if not is_dynamic(size):
                continue
            if example[port.name].shape[axis] < 2:
                notes.append(f"axis {axis} of '{port.name}' is fixed: its example size is below 2")
                continue
            key = axis_key(port, axis) if port.shape is not None else f"{port.name}[{axis}]"
            axes[axis] = dims.setdefault(key, Dim(_identifier(key, len(dims))))
        shapes[port.name] = axes or None
    return shapes, notes


def _identifier(key: str, number: int) -> str:
    return re.sub(r"\W", "_", f"d{number}_{key}", flags=re.ASCII)


def exported_with(
    module: torch.nn.Module, example: Mapping[str, torch.Tensor], shapes: Shapes, accepts: Accepts
) -> tuple[ExportedProgram, list[str]]:
    """Export; where torch finds relations between axes, with its suggestions, and at last with inferred axes.

    ``accepts`` says whether the original model takes these inputs (None: nothing to ask, it does not).
    """
    notes: list[str] = []
    problem: Exception | None = None
    current: Any = tuple(shapes.values())
    for _ in range(4):
        try:
            return _export(module, example, current), notes
        except Exception as error:  # constraint violations mostly, but torch raises many kinds
            problem = error
            refined = None if _FIXED.search(str(error)) else _refined(str(error), current)
            if refined is not None and accepts(_with_one_more(example, shapes, str(error))):
                refined = None
            if refined is None:
                break
            notes.append(f"torch.export relates dynamic axes: {_fixes(str(error))}")
            current = refined
    automatic = tuple(axes and dict.fromkeys(axes, Dim.AUTO) for axes in shapes.values())
    notes.append(f"dynamic axes are inferred by torch.export: {_fixes(str(problem))}")
    try:
        return _export(module, example, automatic), notes
    except Exception as error:
        raise CaptureError(f"torch.export fails: {_short(error)}", "give other example inputs") from error


def _export(module: torch.nn.Module, example: Mapping[str, torch.Tensor], shapes: Any) -> ExportedProgram:
    with warnings.catch_warnings(), preserve_node_meta():
        warnings.simplefilter("ignore")
        exported = torch.export.export(module, tuple(example.values()), dynamic_shapes=(shapes,), strict=False)
    for node in exported.graph.nodes:
        origin = (node.meta.pop("custom", None) or {}).get("onnx")
        if origin is not None and node.op == "call_function":
            node.meta["custom"] = {"onnx": origin}
    return exported


def _with_one_more(example: Mapping[str, torch.Tensor], shapes: Shapes, message: str) -> dict[str, torch.Tensor] | None:
    """The example with one item more along every axis that torch wants to be a multiple; None if there is none."""
    names = set(_MULTIPLE.findall(message.partition("Suggested fixes:")[2]))
    longer = dict(example)
    for name, axes in shapes.items():
        for axis, dim in (axes or {}).items():
            if getattr(dim, "__name__", "") in names:
                longer[name] = torch.cat([longer[name], longer[name].narrow(axis, 0, 1)], axis)
    return longer if names else None


def _refined(message: str, shapes: Any) -> Any:
    if "Suggested fixes" not in message:
        return None
    fixes = [line for line in message.partition("Suggested fixes:")[2].splitlines() if _FIX.match(line)]
    try:
        return refine_dynamic_shapes_from_suggested_fixes("\n".join(["Suggested fixes:", *fixes]), shapes)
    except Exception:  # a suggestion that is no assignment
        return None


def _fixes(message: str) -> str:
    fixes = [line.strip() for line in message.partition("Suggested fixes:")[2].splitlines() if _FIX.match(line)]
    return "; ".join(fixes)[:500] or _short(message)


def _short(error: Any) -> str:
    return " ".join(str(error).split())[:300]


def fixed_axes(interface: Interface, exported: ExportedProgram, shapes: Shapes) -> list[str]:
    """A note for every axis that the file leaves open and the program fixes."""
    values = {node.name: node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder"}
    notes = []
    for port, name in zip(interface.inputs, exported.graph_signature.user_inputs, strict=True):
        for axis in shapes.get(port.name) or {}:
            size = values[name].shape[axis] if isinstance(name, str) else None
            if isinstance(size, torch.SymInt):
                size = size.node.maybe_as_int()
            if size is not None:
                notes.append(f"axis {axis} of '{port.name}' is fixed to {size}: the graph only works with this size")
    return notes
