"""Activations quantized while the model runs: nodes that find the scales, and the same as plain arithmetic."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from tersor.program import Program
from tersor.quant.grid import GRIDS, Grid, affine
from tersor.quant.insert import Q, put_bias, put_weight
from tersor.quant.placement import Rules
from tersor.quant.plan import Layer
from tersor.quant.weights import Whole
from tersor.rewrite import insert_call

RULES = Rules(
    weighted=("linear",),
    closed=(),
    fused=(),
    moved=(),
    joined=(),
    activations="uint8",
    source="ONNX Runtime, core/optimizer/dynamic_quantize_matmul_fusion.cc",
    devices=("cpu", "cuda"),
    wide_bias=False,
    conversion=16.0,
)
"""Which layers, and that a range is looked for before numbers are converted, which reads them twice."""

SMALLEST = 1e-30
"""Ranges of zeros have this scale; ONNX has no least scale, and torch asks for one."""


@dataclass(frozen=True)
class DynamicRounding:
    """How `tersor.quant.simulate` rounds what is quantized while the model runs.

    Attributes:
        weights: the rounded weight by layer name.
        per: "tensor" or "token".
    """

    weights: dict[str, Tensor]
    per: str = "tensor"
    on: Grid = GRIDS["uint8"]
    rules: Rules = field(default_factory=lambda: RULES)

    def activation(self, name: str, value: Tensor) -> Tensor:
        """A value after quantizing by its own range and taking back."""
        if self.per == "token":
            scale, zero = Q.choose_qparams_per_token_asymmetric(value, torch.int8)
            level = Q.quantize_per_token(value, scale, zero, -128, 127, torch.int8)
            made: Tensor = Q.dequantize_per_token(level, scale, zero, -128, 127, torch.int8, torch.float32)
            return made
        low, high = value.aminmax()
        factor, shift = affine(low, high, self.on, symmetric=False)
        return torch.fake_quantize_per_tensor_affine(value, float(factor), int(shift), 0, 255)


def put_layers(program: Program, layers: Sequence[Layer], own: Mapping[str, Whole], on: Grid, per: str) -> None:
    """Quantize layers in place: their weights to the integers given by layer name, on a grid, and what they read."""
    for layer in layers:
        put_bias(program, layer.node, own[layer.node.name], None)
        put_weight(program, layer.node, own[layer.node.name], on)
    for source in dict.fromkeys(layer.source for layer in layers):
        put_dynamic(source, {layer.node for layer in layers if layer.source is source}, per)
    program.prune_weights()
    program.changed()


def put_dynamic(source: fx.Node, readers: Collection[fx.Node], per: str) -> fx.Node:
    """Quantize a result by its own range and take it back, for some of its readers."""
    if per == "token":
        back = _per_token(source)
    else:
        numbers = (0, 255, SMALLEST, torch.uint8)
        scale, zero, after = _chosen(source, Q.choose_qparams.tensor, numbers)
        ends = (scale, zero, 0, 255, torch.uint8)
        level = insert_call(after, Q.quantize_per_tensor.tensor, (source, *ends), like=source)
        back = insert_call(after, Q.dequantize_per_tensor.tensor, (level, *ends), like=source)
    for reader in readers:
        reader.replace_input_with(source, back)
    return back


def _per_token(source: fx.Node) -> fx.Node:
    scale, zero, after = _chosen(source, Q.choose_qparams_per_token_asymmetric.default, (torch.int8,))
    ends = (scale, zero, -128, 127, torch.int8)
    level = insert_call(after, Q.quantize_per_token.default, (source, *ends), like=source)
    return insert_call(after, Q.dequantize_per_token.default, (level, *ends, torch.float32), like=source)


def _chosen(source: fx.Node, target: object, options: tuple[object, ...]) -> tuple[fx.Node, fx.Node, fx.Node]:
    """Scale and zero point as nodes, and the node before which more can be inserted."""
    after = source.next
    both = insert_call(after, target, (source, *options), like=source)
    return (*(insert_call(after, operator.getitem, (both, place), like=source) for place in (0, 1)), after)  # type: ignore[return-value]
