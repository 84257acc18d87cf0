"""What TensorRT runs slower than it need be: types without tensor cores, sparsity without kernels, sizes it pads."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from tersor.backends._tensorrt_findings import Noted
from tersor.backends._tensorrt_layers import Layer, layers
from tersor.backends._tensorrt_operators import NEEDS
from tersor.backends._tensorrt_options import Options
from tersor.backends._tensorrt_sparse import sparse_layers
from tersor.export.edit import is_op
from tersor.target import Target

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_OLDEST = (7, 5)
_IMAGE = 4
"""Channels of an image, which cannot be other than they are."""


def capability(target: Target) -> tuple[int, int] | None:
    """Compute capability of a GPU; None where it is not known.

    >>> capability(Target("any", "cuda", capability="8.9"))
    (8, 9)
    """
    parts = target.capability.split(".")
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(part.isdecimal() for part in parts) else None


def speed(graph: ir.Graph, target: Target, options: Options) -> Iterator[Noted]:
    """Everything of the kind."""
    able = capability(target)
    if able is not None and able < _OLDEST:
        yield (
            "",
            f"{target.name} has compute capability {target.capability}, and TensorRT wants 7.5 or later",
            ("use the onnxruntime backend there, or a version of TensorRT before 10"),
            True,
        )
    found = list(layers(graph))
    yield from _single(found, options)
    for layer in found:
        yield from _lacking(layer, able, target)
        yield from _padded(layer)
    yield from _sparsity(graph, able, options)
    yield from _unsteady(graph)


def _computes_in(layer: Layer) -> ir.DataType | None:
    """The type that a layer multiplies in."""
    if layer.taken_back is not None and layer.reads is not None:
        return layer.weight.dtype
    value = layer.weight if layer.taken_back is None else layer.taken_back.outputs[0]
    return value.dtype


def _single(found: list[Layer], options: Options) -> Iterator[Noted]:
    single = [layer for layer in found if _computes_in(layer) == ir.DataType.FLOAT]
    if single and len(single) == len(found) and not options.tf32:
        yield (
            "",
            f"all {len(single)} layers multiply float32 numbers, without tensor cores",
            ("add cast{dtype=float16;backend=tensorrt} or quantize{backend=tensorrt}, or allow tensorrt{tf32=true}"),
            False,
        )


def _lacking(layer: Layer, able: tuple[int, int] | None, target: Target) -> Iterator[Noted]:
    dtype = _computes_in(layer)
    needs = NEEDS.get(dtype) if dtype is not None else None
    if dtype is None or needs is None or able is None or able >= needs:
        return
    name, wanted = dtype.name.lower(), ".".join(map(str, needs))
    remedy = "use float16" if dtype in (*_HALF, ir.DataType.FLOAT8E4M3FN) else "use another format, or another target"
    yield str(layer.node.name), f"{target.name} has no {name} tensor cores, which come with {wanted}", remedy, False


def _padded(layer: Layer) -> Iterator[Noted]:
    dtype = _computes_in(layer)
    multiple = 8 if dtype in _HALF else 16 if dtype == ir.DataType.INT8 else 1
    outputs, inputs = layer.shape[0], layer.shape[1]
    if layer.groups > 1 or multiple == 1:
        return
    odd = outputs % multiple or (inputs > _IMAGE and inputs % multiple)
    if odd:
        assert dtype is not None
        problem = f"channels in {dtype.name.lower()} that are no multiple of {multiple} are padded"
        yield str(layer.node.name), problem, "prune or widen to multiples; prune passes round to the target's", False


def _sparsity(graph: ir.Graph, able: tuple[int, int] | None, options: Options) -> Iterator[Noted]:
    for found in sparse_layers(graph, able):
        name = str(found.layer.node.name)
        if found.reason:
            remedy = (
                "cast{dtype=float16;backend=tensorrt} or quantize{backend=tensorrt} after sparsify"
                if "float32" in found.reason or "bfloat16" in found.reason
                else "leave it dense: sparsify{backend=tensorrt} passes over such layers"
            )
            yield name, f"2:4 weights gain nothing: {found.reason}", remedy, False
        elif not options.sparse:
            yield name, "2:4 weights, and sparse kernels are switched off", "tensorrt{sparse=true}", False


def _unsteady(graph: ir.Graph) -> Iterator[Noted]:
    for node in graph:
        if is_op(node, "NonZero", "NonMaxSuppression"):
            yield (
                str(node.name),
                f"how much {node.op_type} gives depends on the numbers, so no CUDA graph is kept",
                ("move it behind the model, or keep the best of a fixed number"),
                False,
            )
        elif is_op(node, "If", "Loop", "Scan"):
            yield (
                str(node.name),
                f"{node.op_type} decides on the host, so no CUDA graph is kept",
                ("unroll it where the number of turns is fixed"),
                False,
            )
