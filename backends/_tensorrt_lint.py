"""What TensorRT would reject or run slowly, read off the ONNX model that it would be given, with the fix for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import onnx_ir as ir

from tersor.backend import Finding
from tersor.backends._tensorrt_findings import Noted, gathered
from tersor.backends._tensorrt_form import to_tensorrt_model
from tersor.backends._tensorrt_lint_quantized import quantized
from tersor.backends._tensorrt_lint_speed import speed
from tersor.backends._tensorrt_operators import ELSEWHERE, KINDS, OPERATORS, OPSETS, RANK, REMEDIES, SINCE
from tersor.backends._tensorrt_options import Options, Version
from tersor.backends._tensorrt_profiles import unbounded
from tersor.backends._tensorrt_restrictions import refusal
from tersor.errors import TersorError
from tersor.export.edit import dims_of
from tersor.program import Program
from tersor.target import Target

Ask = Callable[[ir.Model], Iterable[Noted]]
"""What an installed parser says of a model."""


def lint(
    program: Program, target: Target, options: Options, version: Version, ask: Ask = lambda model: ()
) -> list[Finding]:
    """Findings, those that TensorRT refuses the model for first."""
    if target.device != "cuda":
        problem = f"TensorRT runs on CUDA devices, not on {target.name!r}"
        return [Finding("", problem, "give a target such as cuda or h100", fatal=True)]
    try:
        model = to_tensorrt_model(program, version)
    except TersorError as error:
        return [Finding("", error.problem, error.remedy, fatal=True)]
    return gathered([*lint_model(model, target, options, version), *_open(program, options), *ask(model)])


def lint_model(model: ir.Model, target: Target, options: Options, version: Version) -> Iterator[Noted]:
    """What is to be said of a model by itself."""
    opset = model.graph.opset_imports.get("", 0)
    if not OPSETS[0] <= opset <= OPSETS[1]:
        yield "", f"opset {opset} is outside of {OPSETS[0]} to {OPSETS[1]}", "export it at opset 23", True
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.dtype is not None and value.dtype not in KINDS:
            yield str(value.name), f"{_name(value.dtype)} cannot pass in or out", "cast it outside of the model", True
    for node in model.graph.all_nodes():
        yield from _operator(node, version)
        yield from _types(node)
        yield from _ranks(node)
    yield from quantized(model.graph)
    yield from speed(model.graph, target, options)


def _operator(node: ir.Node, version: Version) -> Iterator[Noted]:
    where = str(node.name or node.outputs[0].name)
    if node.domain not in ("", "ai.onnx"):
        yield where, f"{node.op_type} of {node.domain} is no operator of TensorRT's parser", ELSEWHERE, True
    elif node.op_type not in OPERATORS:
        remedy = REMEDIES.get(node.op_type, ELSEWHERE)
        yield where, f"TensorRT's parser does not import {node.op_type}", remedy, True
    elif version < SINCE.get(node.op_type, version):
        since = ".".join(map(str, SINCE[node.op_type]))
        yield where, f"{node.op_type} is imported from TensorRT {since} on", "export at a lower opset, or update", True
    elif found := refusal(node):
        yield where, *found, True


def _types(node: ir.Node) -> Iterator[Noted]:
    """Whether TensorRT computes the operator on this type, as far as it is known."""
    allowed = OPERATORS.get(node.op_type, "") if not node.domain else ""
    place = 1 if node.op_type == "Where" else 0
    value = node.inputs[place] if place < len(node.inputs) else None
    if not allowed or value is None or value.dtype is None or node.op_type == "DequantizeLinear":
        return
    where, name = str(node.name or node.outputs[0].name), _name(value.dtype)
    kind = KINDS.get(value.dtype)
    if kind is None:
        yield where, f"{node.op_type} reads {name}, which TensorRT does not hold", "cast it to float32 or int32", True
    elif kind == "u" and node.op_type not in ("Cast", "CastLike"):
        yield where, f"{node.op_type} reads uint8, which passes in and out only", "cast it to float32 or int32", True
    elif kind in "fibq" and kind not in allowed:
        remedy = "cast its input, and its result back" if kind != "q" else "take the levels back before it"
        yield where, f"{node.op_type} reads {name}; TensorRT computes it on {_kinds(allowed)}", remedy, True
    elif value.dtype == ir.DataType.DOUBLE:
        yield where, "float64 is computed in float32", "convert the model to float32", False


def _kinds(letters: str) -> str:
    names = {"f": "floating point", "i": "integers", "b": "Booleans"}
    return ", ".join(names[letter] for letter in letters if letter in names)


def _ranks(node: ir.Node) -> Iterator[Noted]:
    for value in node.outputs:
        dims = dims_of(value)
        if dims is not None and len(dims) > RANK:
            problem = f"a result of {node.op_type} has {len(dims)} axes, and at most {RANK} are taken"
            yield str(node.name), problem, "fold axes together before, and apart behind", True


def _open(program: Program, options: Options) -> Iterator[Noted]:
    """Dynamic dimensions that no profile was given for."""
    for dimension in unbounded(program, options):
        most = dimension.hint * options.growth * dimension.step
        asked = f"shapes={dimension.name}:{dimension.minimum * dimension.step}:{dimension.hint * dimension.step}:{most}"
        problem = f"dimension {dimension.name!r} has no largest size; the profile ends at {most}"
        yield dimension.name, problem, f"give its bounds, such as tensorrt{{{asked}}}, or in the model", False


def _name(dtype: ir.DataType) -> str:
    return dtype.name.lower()
