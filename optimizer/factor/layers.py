"""Layers that can be factorised: where they are, what they cost, and how a chain takes their place."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tersor.context import Context
from tersor.cost.shapes import numel
from tersor.factor.worth import Stage
from tersor.program import Program
from tersor.rewrite import insert_call, insert_weight, replace
from tersor.rewrite_values import arguments, fake, key

aten = torch.ops.aten

_PLAIN = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}


@dataclass(frozen=True)
class Layer:
    """A linear layer or an ungrouped convolution with constant weights.

    Attributes:
        node: the layer.
        weight: (out, in, *kernel).
        bias: (out,) or None.
        rows: positions of its result in the example inputs, batch included.
        places: positions of its input, likewise.
    """

    node: fx.Node
    weight: Tensor
    bias: Tensor | None
    rows: int
    places: int

    @property
    def outputs(self) -> int:
        """Output features or channels."""
        return int(self.weight.shape[0])

    @property
    def inputs(self) -> int:
        """Input features or channels."""
        return int(self.weight.shape[1])

    @property
    def kernel(self) -> int:
        """Taps of the kernel; 1 for a linear layer."""
        return math.prod(self.weight.shape[2:])

    @property
    def is_linear(self) -> bool:
        """Whether it has no kernel at all, as opposed to a 1 x 1 convolution."""
        return self.weight.dim() == 2

    @property
    def matrix(self) -> Tensor:
        """The weight as (out, in * kernel)."""
        return self.weight.flatten(1)

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def stage(self) -> Stage:
        """What the layer costs as it is."""
        return Stage(self.rows, self.weight.numel(), self.places * self.inputs + self.rows * self.outputs)

    def run(self, inputs: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
        """The layer's operator without bias on other values, with its stride, padding and dilation."""
        given = {**arguments(self.node), "input": inputs, "weight": weight, "bias": None}
        if "groups" in given:
            given["groups"] = groups
        made: Tensor = self.node.target(*given.values())  # type: ignore[operator]
        return made

    def patch_sums(self, inputs: Tensor) -> Tensor:
        """(in, *kernel) what each tap of the kernel reads, summed over batch and positions, padding included.

        It is the gradient of the sum of one output with respect to its weights.
        """
        lead = inputs.dim() - 1 if self.is_linear else 1
        with torch.enable_grad():
            weight = torch.zeros(1, *self.weight.shape[1:], dtype=inputs.dtype, requires_grad=True)
            summed = inputs.detach().flatten(0, lead - 1).sum(0, keepdim=True) if lead else inputs.detach()
            (made,) = torch.autograd.grad(self.run(summed, weight).sum(), weight)
        return made[0].double()

    def bias_for(self, weight: Tensor, mean: Tensor | None) -> Tensor | None:
        """The bias with which another weight gives the same mean output, (out,) in float64.

        Args:
            weight: shape of the layer's own.
            mean: (in, *kernel) what each tap reads on average; None or not finite where that is not known.
        """
        bias = None if self.bias is None else self.bias.double()
        if mean is None or not bool(mean.isfinite().all()):
            return bias
        shift = (self.weight.double() - weight).flatten(1) @ mean.double().flatten()
        return shift if bias is None else bias + shift

    @property
    def source(self) -> fx.Node:
        """The node that it reads."""
        found = self.node.args[0]
        assert isinstance(found, fx.Node)
        return found


def layers(program: Program, context: Context, operators: Sequence[str]) -> list[Layer]:
    """All layers of the given operators that can be factorised, in order; the others are skipped with a reason."""
    readers = Counter(str(node.target) for node in program.graph.find_nodes(op="get_attr") for _ in node.users)
    found = []
    for node in program.nodes:
        if key(node) not in operators:
            continue
        made = _layer(program, node, readers)
        if isinstance(made, str):
            context.skip(node, made)
        else:
            found.append(made)
    return found


def _layer(program: Program, node: fx.Node, readers: Counter[str]) -> Layer | str:
    given = arguments(node)
    weight, bias = program.weight(given["weight"]), program.weight(given["bias"])
    if weight is None or weight.dim() < 2 or (bias is None and given["bias"] is not None):
        return "its weight is computed in the graph"
    if given.get("groups", 1) != 1:
        return f"it has {given['groups']} groups"
    if not weight.dtype.is_floating_point or not bool(weight.isfinite().all()):
        return f"its weight is {weight.dtype}, or not finite"
    if readers[str(given["weight"].target)] > 1:
        return f"weight {given['weight'].target} is read by several nodes; factors would be stored for each"
    source, result = fake(given["input"]), fake(node)
    if key(node) != "linear" and source.dim() != weight.dim():
        return "its input has no batch"
    elements = numel(source), numel(result)
    if elements[0] is None or elements[1] is None or not elements[0]:
        return "how often it runs depends on data"
    return Layer(node, weight, bias, elements[1] // weight.shape[0], elements[0] // weight.shape[1])


@dataclass(frozen=True)
class Piece:
    """One layer of a chain.

    Attributes:
        weight: (out, in / groups) where it mixes channels at each position, (out, in / groups, *kernel) where it takes
            over stride, padding and dilation of the layer that the chain replaces.
        bias: (out,) or None.
        groups: of a convolution.
    """

    weight: Tensor
    bias: Tensor | None = None
    groups: int = 1


def put_chain(program: Program, layer: Layer, pieces: Sequence[Piece]) -> None:
    """Let a chain of layers stand for one; weights are rounded once to the layer's dtype.

    The last of them takes the layer's name: its result means the same, and recovery compares results by name.
    """
    node, made, old = layer.node, layer.source, layer.name
    name, dtype = str(arguments(node)["weight"].target), layer.weight.dtype
    linear = layer.is_linear
    for number, piece in enumerate(pieces, 1):
        spatial = piece.weight.dim() > 2
        weight = piece.weight if linear or spatial else _pointwise(piece.weight, layer.weight.dim())
        given: dict[str, Any] = dict(arguments(node)) if spatial else {"input": None, "weight": None, "bias": None}
        given["input"] = made
        given["weight"] = insert_weight(program, node, f"{name}_{number}", weight.to(dtype).contiguous())
        given["bias"] = None
        if piece.bias is not None:
            given["bias"] = insert_weight(program, node, f"{name}_{number}_bias", piece.bias.to(dtype).contiguous())
        if spatial:
            given["groups"] = piece.groups
        target = node.target if linear or spatial else _PLAIN[layer.weight.dim() - 2]
        made = insert_call(node, target, list(given.values()))
    replace(program, node, made)
    made.name = old


def _pointwise(weight: Tensor, rank: int) -> Tensor:
    return weight.reshape(*weight.shape, *[1] * (rank - 2))
