"""Linear layers with small weights or activations as kernels: int8, four-bit, 2:4; and the activation behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # declares torch.ops.quantized_decomposed
from torch import Tensor, fx

from tersor.backends._triton_gate import Gate, hint, rate_name
from tersor.cost.roofline import Work
from tersor.kernels import int4_matmul, scaled_matmul, sparse_24_matmul
from tersor.kernels.language import FLOATS
from tersor.rewrite import Match, NodeRule, Plan
from tersor.rewrite_values import arguments, fake, key, known
from tersor.sparse.eligible import torch_semi_structured
from tersor.sparse.gain import FEW_ROWS, Gain, job_of, predict
from tersor.sparse.pack import TWO_FOUR, pack
from tersor.sparse.pattern import is_pattern

Q, ours, aten = torch.ops.quantized_decomposed, torch.ops.tersor, torch.ops.aten
_DQ = "quantized_decomposed::dequantize_"


@dataclass(frozen=True)
class Sizes:
    """One layer: rows of its input at the example, inputs, outputs, and what its result is kept in."""

    rows: int
    inputs: int
    outputs: int
    dtype: torch.dtype

    @property
    def dense(self) -> Work:
        """What the layer has to do with a dense weight in the dtype of its result."""
        moved = self.rows * (self.inputs + self.outputs) + self.inputs * self.outputs
        return Work(2.0 * self.rows * self.inputs * self.outputs, moved * self.dtype.itemsize)


def linear_rules(gate: Gate, semi_structured: list[str]) -> list[NodeRule]:
    """All rules; names of weights for PyTorch's semi-structured tensors are added to the list."""

    def plan(site: Match) -> Plan:
        given = arguments(site.root)
        weight = given["weight"]
        if fake(weight).dim() != 2 or fake(site.root).dtype not in FLOATS:
            return None
        outputs, inputs = (hint(size) for size in fake(weight).shape)
        rows = hint(fake(given["input"]).numel()) // max(inputs, 1)
        sizes = Sizes(rows, inputs, outputs, fake(site.root).dtype)
        if key(weight) == f"{_DQ}per_channel_group":
            return _four_bits(site, given, sizes, gate)
        if key(weight) == f"{_DQ}per_channel" and key(given["input"]).startswith(_DQ):
            return _integers(site, given, sizes, gate)
        return _sparse(site, given, sizes, gate, semi_structured)

    return [NodeRule("linear layer as a kernel", ("linear",), plan), _ACTIVATION]


def _four_bits(site: Match, given: dict[str, Any], sizes: Sizes, gate: Gate) -> Plan:
    """Weights in groups, kept in at most sixteen levels."""
    stored = arguments(given["weight"])
    level, group = site.weight(stored["input"]), stored["group_size"]
    low, high = stored["quant_min"], stored["quant_max"]
    if level is None or level.is_floating_point() or high - low > 15:
        return f"int4_matmul takes constant weights of sixteen levels, not {low} to {high}"
    if group % int4_matmul.LEAST or sizes.inputs % group:
        return f"int4_matmul takes groups of a multiple of {int4_matmul.LEAST} inputs, not {group}"
    if fake(given["input"]).dtype != fake(given["weight"]).dtype:
        return f"int4_matmul takes activations in the dtype of weights, not {fake(given['input']).dtype}"
    name = rate_name(sizes.dtype)
    work = int4_matmul.work(sizes.rows, sizes.inputs, sizes.outputs, group, sizes.dtype, zero=True)
    if reason := gate.objection("int4_matmul", work, sizes.dense, (name, name)):
        return reason

    def build() -> fx.Node:
        zero = site.weight(stored["zero_points"])
        scale = site.weight(stored["scales"])
        assert scale is not None and level is not None
        shifted = torch.zeros(scale.shape, dtype=torch.int64) if zero is None else zero.long()
        path = str(stored["input"].target)
        packed = site.new_weight(f"{path}_packed", int4_matmul.pack(level.long() - low))
        zeros = site.new_weight(f"{path}_zeros", (shifted - low).to(torch.uint8))
        factors = site.new_weight(f"{path}_scales", scale.float())
        return site.call(ours.int4_matmul.default, given["input"], packed, factors, zeros, given["bias"])

    return build


def _integers(site: Match, given: dict[str, Any], sizes: Sizes, gate: Gate) -> Plan:
    """Weights of a scale for each output, and activations of one scale or one for each token."""
    stored = arguments(given["weight"])
    level, zero, scale = (site.weight(stored[name]) for name in ("input", "zero_points", "scales"))
    if level is None or scale is None or level.dtype != torch.int8 or stored["axis"] != 0:
        return "scaled_matmul takes constant int8 weights with a scale for each output"
    if zero is not None and bool(zero.any()):
        return "scaled_matmul takes weights whose zero is level 0"
    source = _levels(given["input"])
    if isinstance(source, str):
        return source
    work = scaled_matmul.work(sizes.rows, sizes.inputs, sizes.outputs, sizes.dtype)
    if reason := gate.objection("scaled_matmul", work, sizes.dense, ("int8", rate_name(sizes.dtype))):
        return reason

    def build() -> fx.Node:
        assert level is not None and scale is not None
        path = str(stored["input"].target)
        x, step, shift = source.build(site)
        sums = site.new_weight(f"{path}_sums", level.sum(1, dtype=torch.int32))
        factors = site.new_weight(f"{path}_factors", scale.float().contiguous())
        weight = stored["input"]
        return site.call(
            ours.scaled_matmul.default, x, weight, step, factors, given["bias"], shift, sums, "none", sizes.dtype
        )

    return build


@dataclass(frozen=True)
class Levels:
    """Integers that a layer reads, before they are taken back.

    Attributes:
        quantize: the node that made them.
        per_token: whether scales are nodes, one for each token.
    """

    quantize: fx.Node
    per_token: bool

    def build(self, site: Match) -> tuple[fx.Node, fx.Node, fx.Node]:
        """Levels as int8, scale as float32, zero as int32."""
        given = arguments(self.quantize)
        if self.per_token:
            numbers = (given["scales"], given["zero_points"])
            kinds = (torch.float32, torch.int32)
            made = [site.call(aten._to_copy.default, n, dtype=k) for n, k in zip(numbers, kinds, strict=True)]
            return self.quantize, made[0], made[1]
        step, zero = float(given["scale"]), int(given["zero_point"])
        moved = 128 if given["dtype"] == torch.uint8 else 0
        ends = (step, zero - moved, given["quant_min"] - moved, given["quant_max"] - moved, torch.int8)
        level = site.call(Q.quantize_per_tensor.default, given["input"], *ends)
        scale = site.new_weight(f"{self.quantize.name}_scale", torch.tensor([step], dtype=torch.float32))
        return level, scale, site.new_weight(f"{self.quantize.name}_zero", torch.tensor([ends[1]], dtype=torch.int32))


def _levels(node: fx.Node) -> Levels | str:
    """Where the integers of a layer's input come from, or why they cannot be multiplied."""
    made, name = node.all_input_nodes[0], key(node).removeprefix(_DQ)
    if name == "per_token" and key(made) == "quantized_decomposed::quantize_per_token":
        given = arguments(made)
        return Levels(made, True) if given["dtype"] == torch.int8 else f"scaled_matmul takes no {given['dtype']}"
    if name != "per_tensor" or key(made) != "quantized_decomposed::quantize_per_tensor":
        return f"scaled_matmul takes no activations quantized {name.replace('_', ' ')} elsewhere"
    given = arguments(made)
    if isinstance(given["scale"], fx.Node):
        return "scaled_matmul takes no scale of a whole tensor that is found while the model runs; quantize per token"
    if given["dtype"] not in (torch.int8, torch.uint8):
        return f"scaled_matmul takes no {given['dtype']}"
    return Levels(made, False)


def _sparse(site: Match, given: dict[str, Any], sizes: Sizes, gate: Gate, semi_structured: list[str]) -> Plan:
    """Weights that are 2:4: for few rows the project's kernel, otherwise PyTorch's semi-structured tensors."""
    stored = arguments(given["weight"]) if key(given["weight"]) == f"{_DQ}per_channel" else {"input": given["weight"]}
    weight, scale = site.weight(stored["input"]), site.weight(stored.get("scales"))
    if weight is None or sizes.inputs % 4 or not weight.numel() or not is_pattern(weight, TWO_FOUR):
        return None
    few = sizes.rows <= FEW_ROWS and all(known(size) is not None for size in fake(given["input"]).shape)
    if not few:
        return _semi_structured(site, given, sizes, gate, semi_structured, weight)
    zero = site.weight(stored.get("zero_points"))
    if weight.dtype not in (torch.int8, fake(given["input"]).dtype) or (zero is not None and bool(zero.any())):
        return f"sparse_24_matmul takes weights in the dtype of activations or symmetric int8, not {weight.dtype}"
    work = sparse_24_matmul.work(sizes.rows, sizes.inputs, sizes.outputs, sizes.dtype, weight.dtype)
    name = rate_name(sizes.dtype)
    if reason := gate.objection("sparse_24_matmul", work, sizes.dense, (name, name)):
        return reason

    def build() -> fx.Node:
        assert weight is not None
        path, packed = str(stored["input"].target), pack(weight)
        parts = [site.new_weight(f"{path}_kept", packed.values), site.new_weight(f"{path}_places", packed.metadata)]
        factor = None if scale is None else site.new_weight(f"{path}_factors", scale.float())
        return site.call(ours.sparse_24_matmul.default, given["input"], *parts, factor, given["bias"])

    return build


def _semi_structured(
    site: Match, given: dict[str, Any], sizes: Sizes, gate: Gate, names: list[str], weight: Tensor
) -> Plan:
    """Note the weight where PyTorch's kernels take it and are predicted to pay; the graph stays as it is."""
    if key(given["weight"]) == f"{_DQ}per_channel":
        return "2:4 weights in int8 with float activations have a kernel for few rows only; quantize activations too"
    where = divmod(gate.capability, 10) if gate.capability else (8, 0)
    if reason := torch_semi_structured(weight.shape, weight.dtype, capability=where):
        return f"the 2:4 weight stays dense: {reason}"
    if not gate.anyway:
        job = job_of(weight.shape, sizes.rows, sizes.rows, weight.dtype, "")
        found = predict(job, TWO_FOUR, "triton", gate.target)
        if not isinstance(found, Gain) or found.ratio < 1.1:
            return f"the 2:4 weight stays dense: {found}"
    names.append(str(given["weight"].target))
    return None


def activation(node: Any) -> str:
    """The name that kernels have for a node's activation; empty where it is none."""
    name = key(node)
    if name == "gelu":
        return "gelu_tanh" if arguments(node)["approximate"] == "tanh" else "gelu"
    return name if name in ("silu", "relu") else ""


def _activated(site: Match) -> Plan:
    """An activation behind an integer layer becomes a part of it."""
    layer = site.root.args[0]
    if not isinstance(layer, fx.Node) or layer.target is not ours.scaled_matmul.default or len(layer.users) != 1:
        return None
    given, name = arguments(layer), activation(site.root)
    if given["activation"] != "none":
        return None
    return lambda: site.call(ours.scaled_matmul.default, *({**given, "activation": name}).values())


_ACTIVATION = NodeRule("activation in a layer's kernel", ("relu", "gelu", "silu"), _activated)
