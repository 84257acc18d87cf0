"""Operators that exist only between a program and its ONNX file: they pass torch.export and torch.onnx unchanged."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from tersor.errors import ExportError
from tersor.export.record import recorded
from tersor.program import Program

OPAQUE_DOMAIN = "tersor.opaque"

_library = torch.library.Library("tersor_export", "DEF")
_library.define("reshape(Tensor data, SymInt[] sizes) -> Tensor")
_library.impl("reshape", lambda data, sizes: data.reshape(sizes).clone(), "CompositeExplicitAutograd")
reshape_operator = torch.ops.tersor_export.reshape.default


@torch.library.register_fake("tersor_export::reshape", lib=_library)
def _fake_reshape(data: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    return torch.empty_like(data.reshape(sizes), memory_format=torch.contiguous_format)


_VIEWS = (
    torch.ops.aten.view.default,
    torch.ops.aten.reshape.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten._reshape_copy.default,
)


_aten = torch.ops.aten
_SAME = {
    _aten.__and__.Tensor: _aten.bitwise_and.Tensor,
    _aten.__or__.Tensor: _aten.bitwise_or.Tensor,
    _aten.__xor__.Tensor: _aten.bitwise_xor.Tensor,
    _aten.min.other: _aten.minimum.default,
    _aten.max.other: _aten.maximum.default,
}
"""Other names of operators; torch.onnx knows only one and would decompose the whole graph for the other."""


def prepared(program: Program) -> Program:
    """A copy that torch.onnx takes without loss.

    Views must not depend on strides: torch.onnx decomposes operators around a view, which changes strides, and then
    refuses the view.
    """
    copied = program.clone()
    for node in copied.graph.nodes:
        if node.op != "call_function":
            continue
        node.target = _SAME.get(node.target, node.target)
        if node.target in _VIEWS and not isinstance(node.args[1], fx.Node):
            node.target = reshape_operator
        elif node.target is _aten.squeeze.dims:
            _only_those_that_go(node)
        elif node.target is _aten.clamp.default:
            _float_bounds(node)
        elif node.target is _aten.adaptive_avg_pool2d.default and list(node.args[1]) == [1, 1]:
            node.target, node.args = _aten.mean.dim, (node.args[0], [-2, -1], True)
    return copied


def _only_those_that_go(node: fx.Node) -> None:
    """Of the axes to squeeze those that have one entry: a translation does not see which sizes torch took for 1."""
    source, dims = node.args
    assert isinstance(source, fx.Node) and isinstance(dims, list | tuple)
    shape, gone = source.meta["val"].shape, source.meta["val"].dim() - node.meta["val"].dim()
    if gone == len(dims):
        return
    ones = [dim for dim in dims if isinstance(shape[dim], int) and shape[dim] == 1]
    if len(ones) != gone:
        raise ExportError(f"which axes {node.name} squeezes depends on sizes", "squeeze axes of a fixed size")
    node.args = (source, ones)


def _float_bounds(node: fx.Node) -> None:
    """torch.onnx makes tensors of whole-number bounds of a floating-point clamp, and then Max and Min of Clip."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        node.args = tuple(float(item) if isinstance(item, int) else item for item in node.args)
        node.kwargs = {key: float(item) if isinstance(item, int) else item for key, item in node.kwargs.items()}


def opaque_translation(opaque: Mapping[str, Any]) -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table entry that records a placeholder for nodes of an ONNX file; `verbatim.restore` writes them back."""
    if not opaque:
        return {}
    importlib.import_module("tersor.capture.onnx.opaque")

    def record(inputs: Sequence[Any], key: str) -> Sequence[Any]:
        outputs = len(opaque[key].outputs)
        node = ir.node("Opaque", list(inputs), {"key": key}, domain=OPAQUE_DOMAIN, num_outputs=outputs)
        recorded().append(node)
        return list(node.outputs)

    return {torch.ops.tersor.opaque.default: record}
