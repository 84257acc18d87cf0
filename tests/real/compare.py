"""Compares two ONNX files: their interface, their size, and their numbers in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import AttributeProto, GraphProto, ValueInfoProto

Feed = Mapping[str, np.ndarray]
Port = tuple[str, int, tuple[int | None, ...]]
"""Name, element type, and axes: a size, or None for one that is dynamic."""

TOLERANCE = 1e-4
"""Largest difference allowed between two ONNX files of one model, as a share of the output's largest value."""


def nodes(path: Path) -> int:
    """Nodes of a file, those in subgraphs included; a constant is no node, whether it is written as one or not."""
    return _count(onnx.load(path, load_external_data=False).graph)


def _count(graph: GraphProto) -> int:
    own = [node for node in graph.node if node.op_type != "Constant"]
    inner = [a.g for node in own for a in node.attribute if a.type == AttributeProto.GRAPH]
    return len(own) + sum(_count(item) for item in inner)


def ports(path: Path) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of a file."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [_port(v) for v in graph.input if v.name not in constants], [_port(v) for v in graph.output]


def _port(value: ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    sizes = (dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in kind.shape.dim)
    return value.name, kind.elem_type, tuple(sizes)


def interface_problem(before: Path, after: Path) -> str:
    """What the second file's callers would miss: a name, the order, a type, a dynamic axis; empty if nothing."""
    (inputs, outputs), (new_inputs, new_outputs) = ports(before), ports(after)
    if inputs != new_inputs:
        return f"inputs were {inputs} and are {new_inputs}"
    if [port[:2] for port in outputs] != [port[:2] for port in new_outputs]:
        return f"outputs were {outputs} and are {new_outputs}"
    wrong = [(a, b) for a, b in zip(outputs, new_outputs, strict=True) if not _fits(a[2], b[2])]
    return f"outputs changed their axes: {wrong}" if wrong else ""


def _fits(old: Sequence[int | None], new: Sequence[int | None]) -> bool:
    """A size may become known, since some exporters leave fixed output axes open; it may not change or get lost."""
    return not old or (len(old) == len(new) and all(a in (None, b) for a, b in zip(old, new, strict=True)))


def session(path: Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime with its defaults, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def largest_difference(before: Path, after: Path, feeds: Iterable[Feed]) -> float:
    """The largest difference over all inputs and outputs, as a share of the output's largest value."""
    old, new = session(before), session(after)
    found = 0.0
    for feed in feeds:
        for wanted, got in zip(old.run(None, dict(feed)), new.run(None, dict(feed)), strict=True):
            found = max(found, difference(wanted, got))
    return found


def difference(wanted: Any, got: Any) -> float:
    """The largest difference as a share of the largest value wanted; infinite where shapes or types differ.

    >>> difference(np.array([1.0, -4.0]), np.array([1.0, -3.0]))
    0.25
    """
    wanted, got = np.asarray(wanted), np.asarray(got)
    if wanted.shape != got.shape or wanted.dtype != got.dtype or not np.isfinite(got).all():
        return float("inf")
    gap = np.abs(wanted.astype(np.float64) - got.astype(np.float64)).max(initial=0.0)
    return float(gap / max(np.abs(wanted).max(initial=0.0), 1e-6))
