"""Factors of a layer's input channels, taken in by the norm or the layer before, or by a node in front: exact."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from tersor.program import Program
from tersor.rewrite import insert_call, insert_weight
from tersor.rewrite_arguments import readers, set_constant
from tersor.rewrite_values import arguments, fake, key, known, tensor

NORMS = ("layer_norm", "rms_norm")
HOMOGENEOUS = ("relu", "leaky_relu")
"""Activations with f(c x) = c f(x) for every positive c."""


def absorber(program: Program, value: fx.Node, read_by: Collection[fx.Node]) -> fx.Node | str:
    """The node whose weight can take in factors of the last dimension of ``value``, or why there is none.

    Args:
        program: it is not changed.
        value: what the layers read.
        read_by: these layers; nobody else may read it.
    """
    other = next((user for user in value.users if user not in read_by), None)
    if other is not None:
        return f"{other.name} reads {value.name} too"
    name = key(value)
    if name in NORMS or name == "linear":
        return _objection(program, value) or value
    if name in HOMOGENEOUS:
        return absorber(program, value.all_input_nodes[0], {value})
    if name == "mul":
        return _factor(program, value)
    if name == "getitem" and key(value.args[0]) == "split_with_sizes":
        return _part(program, value)
    return f"{value.name} is between it and the layer before"


def _factor(program: Program, product: fx.Node) -> fx.Node | str:
    """Of two factors, one that can take in the factors; it must have all channels."""
    first, second = product.args[:2]
    if first is not second:
        for operand in (first, second):
            found = tensor(operand)
            if found is None or not found.dim() or known(found.shape[-1]) != known(fake(product).shape[-1]):
                continue
            assert isinstance(operand, fx.Node)
            made = absorber(program, operand, {product})
            if isinstance(made, fx.Node):
                return made
    return f"neither factor of {product.name} comes from a layer"


def _part(program: Program, value: fx.Node) -> fx.Node | str:
    """A part of what a merged layer gives: the part itself, whose rows `absorb` finds, or why it cannot be."""
    split: Any = value.args[0]
    given = arguments(split)
    layer, last = given["self"], fake(split.args[0]).dim() - 1
    if key(layer) != "linear" or given["dim"] % (last + 1) != last:
        return f"{split.name} is between it and the layer before"
    if len(layer.users) > 1 or any(user is not value and user.args[1] == value.args[1] for user in split.users):
        return f"{value.name} is not the only one to read its channels of {layer.name}"
    return _objection(program, layer) or value


def _objection(program: Program, node: fx.Node) -> str:
    given = arguments(node)
    if key(node) in NORMS and len(given["normalized_shape"]) != 1:
        return f"{node.name} runs over several dimensions"
    for name in ("weight", "bias"):
        item = given.get(name)
        if item is None:
            continue
        if program.weight(item) is None:
            return f"the {name} of {node.name} is computed in the graph"
        if len(item.users) > 1 or readers(program, str(item.target)) > 1:
            return f"the {name} of {node.name} is read by others too"
    return ""


def absorb(program: Program, node: fx.Node, factors: Tensor) -> None:
    """Divide the result of a node that `absorber` found by ``factors``, one for each of its channels, float64 [n]."""
    if key(node) == "getitem":
        split: Any = node.args[0]
        sizes, place = arguments(split)["split_sizes"], int(node.args[1])  # type: ignore[arg-type]
        whole = torch.ones(sum(sizes), dtype=factors.dtype)
        whole[sum(sizes[:place]) :][: sizes[place]] = factors
        node, factors = arguments(split)["self"], whole
    given = arguments(node)
    weight, bias = program.weight(given["weight"]), program.weight(given.get("bias"))
    across = factors if key(node) in NORMS else factors[:, None]
    _set(program, node, "weight", (torch.ones_like(factors) if weight is None else weight.double()) / across)
    if bias is not None:
        _set(program, node, "bias", bias.double() / factors)


def divide(program: Program, node: fx.Node, layers: Sequence[fx.Node], factors: Tensor) -> None:
    """Divide what some layers read by ``factors``, in a node of its own, and multiply their weights."""
    scale = insert_weight(program, layers[0], f"{node.name}_factors", (1 / factors).to(fake(node).dtype))
    made = insert_call(layers[0], torch.ops.aten.mul.Tensor, (node, scale), like=node)
    for layer in layers:
        layer.replace_input_with(node, made)
        multiply(program, layer, factors)


def multiply(program: Program, node: fx.Node, factors: Tensor) -> None:
    """Multiply the columns of a linear layer's weight, where what it reads was divided."""
    weight = program.weight(arguments(node)["weight"])
    assert weight is not None
    _set(program, node, "weight", weight.double() * factors)


def _set(program: Program, node: fx.Node, name: str, value: Tensor) -> None:
    set_constant(program, node, name, value.to(fake(node).dtype).contiguous(), f"{node.name}_{name}")
