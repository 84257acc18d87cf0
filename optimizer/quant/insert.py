"""Quantizing and taking back as nodes of a program: explicit, as ONNX's QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.ao.quantization.fx._decomposed  # declares torch.ops.quantized_decomposed
from torch import Tensor, fx

from tersor.program import Program
from tersor.quant.grid import Grid, quantize, spread
from tersor.rewrite import insert_call, insert_weight
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


def put_weight(program: Program, node: fx.Node, name: str, scale: Tensor, zero: Tensor, on: Grid) -> fx.Node:
    """Store a layer's argument as integers, one scale per index of its first dimension, and take it back before use."""
    source = arguments(node)[name]
    value = program.weight(source)
    assert value is not None
    level = quantize(value, spread(scale, value, 0), spread(zero, value, 0), on)
    return _put(program, node, name, str(source.target), level, scale, zero, on)


def put_bias(program: Program, node: fx.Node, scale: Tensor) -> None:
    """Store a layer's bias as 32-bit integers whose scale is that of the products that they are added to."""
    source = arguments(node)["bias"]
    value = program.weight(source)
    if value is None:
        return
    scale = scale.expand(len(value)).contiguous()
    zero = torch.zeros(len(value), dtype=torch.int32)
    _put(program, node, "bias", str(source.target), quantize(value, scale, zero, INT32), scale, zero, INT32)


def _put(
    program: Program, node: fx.Node, name: str, path: str, level: Tensor, scale: Tensor, zero: Tensor, on: Grid
) -> fx.Node:
    constants = [
        insert_weight(program, node, f"{path}_quantized", level),
        insert_weight(program, node, f"{path}_scale", scale.float()),
        insert_weight(program, node, f"{path}_zero", zero.long()),
    ]
    back = insert_call(
        node, Q.dequantize_per_channel.default, (*constants, 0, on.lowest, on.highest, on.dtype), like=node
    )
    names = list(arguments(node))
    if len(node.args) > names.index(name):
        node.update_arg(names.index(name), back)
    else:
        node.update_kwarg(name, back)
    return back
