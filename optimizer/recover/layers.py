"""Layers as linear systems: rows of inputs and outputs, and how a solution becomes weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, fx

from tersor.convolution import EVERY, Window, window
from tersor.program import Program
from tersor.recover.patches import patches
from tersor.rewrite_arguments import set_constant
from tersor.rewrite_values import arguments, key


@dataclass(frozen=True)
class Layer:
    """A node that is linear in one activation: ``output = input · weight + bias`` in each of its groups.

    Attributes:
        node: the layer.
        kind: "linear" (weight [out, in]), "matmul" (weight [in, out]) or "convolution".
        source: the activation.
        weight: the argument that holds the weight.
        bias: the argument that holds the bias, None where there is none.
        biased: whether the operator takes a bias.
        groups: independent systems side by side.
        window: geometry of a convolution.
    """

    node: fx.Node
    kind: Literal["linear", "matmul", "convolution"]
    source: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    biased: bool
    groups: int = 1
    window: Window | None = None


def layer_of(node: fx.Node) -> Layer | None:
    """The layer that a node is, whatever computes its weight; None where it is none."""
    name = key(node)
    given = arguments(node) if name in (*EVERY, "linear", "matmul", "mm", "addmm") else {}
    if name == "linear":
        return Layer(node, "linear", given["input"], given["weight"], given["bias"], True)
    if name in ("matmul", "mm"):
        left, right = node.args[:2]
        constant = isinstance(right, fx.Node) and right.op == "get_attr" and right.meta["val"].dim() == 2
        return Layer(node, "matmul", left, right, None, False) if constant else None  # type: ignore[arg-type]
    if name == "addmm":
        plain = given["alpha"] == given["beta"] == 1 and given["self"].meta["val"].dim() == 1
        return Layer(node, "matmul", given["mat1"], given["mat2"], given["self"], True) if plain else None
    return _convolution(node) if name in EVERY else None


def _convolution(node: fx.Node) -> Layer:
    given = arguments(node)
    return Layer(
        node, "convolution", given["input"], given["weight"], given["bias"], True, int(given["groups"]), window(node)
    )


def positions(layer: Layer, output: Tensor) -> int:
    """How many rows an output of a layer gives."""
    return _by_row(layer, output).shape[0]


def output_rows(layer: Layer, output: Tensor, at: Tensor) -> Tensor:
    """Chosen rows of an output, of shape [rows, groups, outputs of a group]."""
    return _by_row(layer, output)[at].unflatten(-1, (layer.groups, -1))


def input_rows(layer: Layer, source: Tensor, output: Tensor, at: Tensor) -> Tensor:
    """What the chosen rows are computed from, of shape [rows, groups, inputs of a group]."""
    if layer.window is None:
        return source.flatten(0, -2)[at].unsqueeze(1)
    rank = len(layer.window.kernel)
    source = source if source.dim() == rank + 2 else source.unsqueeze(0)
    rows = patches(source, at, output.shape[-rank:], layer.window)
    return rows.unflatten(1, (layer.groups, -1)).flatten(2)


def _by_row(layer: Layer, output: Tensor) -> Tensor:
    """A view or copy of shape [rows, channels]."""
    if layer.window is None:
        return output.flatten(0, -2)
    return output.movedim(-1 - len(layer.window.kernel), -1).flatten(0, -2)


def arranged(layer: Layer, matrix: Tensor, like: Tensor) -> Tensor:
    """A matrix of shape [groups, inputs, outputs] in the layout of the layer's weight."""
    if layer.window is None:
        return matrix[0].T if layer.kind == "linear" else matrix[0]
    if not layer.window.transposed:
        return matrix.transpose(1, 2).reshape(like.shape)
    taps = like[0, 0].numel()
    return matrix.unflatten(1, (-1, taps)).transpose(2, 3).reshape(like.shape)


def as_systems(layer: Layer, value: Tensor) -> Tensor:
    """A weight as matrices of shape [groups, inputs, outputs]: the inverse of `arranged`."""
    if layer.window is None:
        return (value.T if layer.kind == "linear" else value)[None]
    if not layer.window.transposed:
        return value.flatten(1).unflatten(0, (layer.groups, -1)).transpose(1, 2)
    return value.flatten(2).unflatten(0, (layer.groups, -1)).transpose(2, 3).flatten(1, 2)


def unwritable(program: Program, layer: Layer) -> str:
    """Why a layer's weight cannot be replaced; empty where it can."""
    value = program.weight(layer.weight)
    if value is None:
        return "its weight is computed in the graph"
    if not value.is_floating_point():
        return f"its weight is {value.dtype}"
    sharing = [other for other in program.graph.find_nodes(op="get_attr") if _same(program, other, value)]
    if len(sharing) > 1 or len(layer.weight.users) > 1:
        return "its weight is shared with other nodes"
    return ""


def _same(program: Program, node: fx.Node, value: Tensor) -> bool:
    other = program.weight(node)
    return other is not None and (other is value or (other.numel() > 0 and other.data_ptr() == value.data_ptr()))


def bias_unwritable(program: Program, layer: Layer) -> str:
    """Why a layer's bias cannot be replaced or added; empty where it can."""
    if not layer.biased:
        return f"{key(layer.node)} takes no bias"
    value = program.weight(layer.bias)
    return "its bias is computed in the graph" if layer.bias is not None and value is None else ""


def add_to_weight(program: Program, layer: Layer, matrix: Tensor) -> None:
    """Replace the weight by its sum with a matrix of shape [groups, inputs, outputs]."""
    name = str(layer.weight.target)
    value = program.weights[name]
    program.weights[name] = (value.double() + arranged(layer, matrix, value)).to(value.dtype)


def add_to_bias(program: Program, layer: Layer, shift: Tensor) -> None:
    """Replace the bias by its sum with a shift of shape [groups, outputs]; a layer without one gets one."""
    old = program.weight(layer.bias)
    made = shift.flatten() if old is None else old.double() + shift.flatten()
    dtype = layer.node.meta["val"].dtype if old is None else old.dtype
    argument = "self" if key(layer.node) == "addmm" else "bias"
    set_constant(program, layer.node, argument, made.to(dtype), _bias_name(layer))


def _bias_name(layer: Layer) -> str:
    """A name beside the weight's, never below it, where a module would have to be."""
    if layer.weight.op != "get_attr":
        return f"{layer.node.name}_bias"
    path, dot, last = str(layer.weight.target).rpartition(".")
    return f"{path}{dot}bias" if last == "weight" else f"{path}{dot}{last}_bias"
