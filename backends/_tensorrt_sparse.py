"""Which layers of a model hold 2:4 weights, and whether TensorRT has sparse kernels for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir
import torch

from tersor.backends._tensorrt_layers import Layer, layers
from tersor.sparse.eligible import tensorrt
from tersor.sparse.layout import as_matrix
from tersor.sparse.pattern import Pattern, is_pattern

_PATTERN = Pattern(2, 4)
_LEAST = 16
"""Weights of fewer inputs may have the pattern by accident."""


@dataclass(frozen=True)
class Sparse:
    """A layer with 2:4 weights, and why it is computed densely all the same; empty where it is not."""

    layer: Layer
    reason: str


def sparse_layers(graph: ir.Graph, capability: tuple[int, int] | None = None) -> Iterator[Sparse]:
    """The layers whose weights have the 2:4 pattern along their inputs."""
    for layer in layers(graph):
        if layer.node.op_type != "ConvTranspose" and _has_pattern(layer):
            dtype = torch.int8 if layer.reads is not None else _dtype(layer)
            yield Sparse(layer, tensorrt(layer.shape, dtype, layer.groups, capability or (8, 0)))


def _has_pattern(layer: Layer) -> bool:
    assert layer.weight.const_value is not None
    if len(layer.shape) < 2 or layer.shape[1] < _LEAST or layer.shape[1] % _PATTERN.m:
        return False
    weight = torch.from_numpy(layer.weight.const_value.numpy() != 0)
    if layer.turned and weight.dim() == 2:
        weight = weight.mT
    return weight.dim() >= 2 and bool(weight.any()) and is_pattern(as_matrix(weight), _PATTERN)


def _dtype(layer: Layer) -> torch.dtype:
    value = layer.weight if layer.taken_back is None else layer.taken_back.outputs[0]
    return ir.tensor_adapters.to_torch_dtype(value.dtype) if value.dtype is not None else torch.float32
