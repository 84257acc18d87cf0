"""Quantizing and taking back as nodes of a program: explicit, as ONNX's QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.ao.quantization.fx._decomposed  # declares torch.ops.quantized_decomposed
from torch import Tensor, fx

from tersor.program import Program
from tersor.quant.grid import Grid, quantize
from tersor.quant.weights import Whole
from tersor.rewrite import insert_call, insert_weight
from tersor.rewrite_arguments import set_argument
from tersor.rewrite_values import arguments

Q = torch.ops.quantized_decomposed
INT32 = Grid("int32", -(2**31), 2**31 - 1, torch.int32)


def put_activation(
    node: fx.Node, scale: Tensor, zero: Tensor, on: Grid, readers: Collection[fx.Node] | None = None
) -> fx.Node:
    """Quantize a result and take it back for some of its readers, or for all of them; the others get the original."""
    chosen = [user for user in node.users if readers is None or user in readers]
    numbers = (float(scale), int(zero), on.lowest, on.highest, on.dtype)
    level = insert_call(node.next, Q.quantize_per_tensor.default, (node, *numbers), like=node)
    back = insert_call(level.next, Q.dequantize_per_tensor.default, (level, *numbers), like=node)
    for user in chosen:
        user.replace_input_with(node, back)
    return back


def put_weight(program: Program, node: fx.Node, made: Whole, on: Grid) -> None:
    """Store a layer's weight as integers, and take it back before use."""
    path = str(arguments(node)["weight"].target)
    _put(program, node, "weight", path, made.level, made.scale, made.zero, on)


def put_bias(program: Program, node: fx.Node, made: Whole, scale: Tensor | None) -> None:
    """Take the shift that rounding the weight leaves off a layer's bias.

    With ``scale``, that of the layer's input, the bias is stored as 32-bit integers, whose scale is that of the
    products that they are added to; else in floating point.
    """
    given = arguments(node)
    value = program.weight(given["bias"])
    shifted = (0.0 if value is None else value.double()) - made.shift
    path = f"{given['weight'].target}_bias" if value is None else str(given["bias"].target)
    if scale is None:
        fresh = insert_weight(program, node, f"{path}_shifted", shifted.to(torch.float32))
        set_argument(node, "bias", fresh)
        return
    step = scale * made.scale
    zero = torch.zeros_like(made.zero)
    _put(program, node, "bias", path, quantize(shifted, step, zero, INT32), step, zero, INT32)


def _put(
    program: Program, node: fx.Node, name: str, path: str, level: Tensor, scale: Tensor, zero: Tensor, on: Grid
) -> None:
    constants = [
        insert_weight(program, node, f"{path}_quantized", level),
        insert_weight(program, node, f"{path}_scale", scale.float()),
        insert_weight(program, node, f"{path}_zero", zero.long()),
    ]
    back = insert_call(
        node, Q.dequantize_per_channel.default, (*constants, 0, on.lowest, on.highest, on.dtype), like=node
    )
    set_argument(node, name, back)
