"""Layers: nodes that multiply an activation with a weight, all seen as one matrix form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from tersor.convolution import EVERY, is_transposed
from tersor.program import Program
from tersor.rewrite_values import arguments, fake, key


@dataclass(frozen=True)
class Layer:
    """One multiplication with a weight.

    Attributes:
        node: its name.
        source: the node whose result is multiplied.
        dim: the dimension of that result that is summed over, from the front.
        weight, bias: names of the weights; bias is empty where there is none.
        into: the weight's dimension that is summed over; for a grouped convolution it counts one group's channels.
        out: the weight's dimensions that the result gets, in the order of the matrix form's outputs.
        groups: of a convolution, else 1.
        channel: the dimension of the result that holds the outputs; None where they are spread over several.
    """

    node: str
    source: str
    dim: int
    weight: str
    bias: str
    into: int
    out: tuple[int, ...]
    groups: int = 1
    channel: int | None = None

    @property
    def producing(self) -> tuple[tuple[str, int], ...]:
        """The (weight, dimension) pairs that hold its outputs."""
        return tuple((self.weight, dim) for dim in self.out) + (((self.bias, 0),) if self.bias else ())


def layer(program: Program, node: fx.Node) -> Layer | None:
    """The node as a layer; None where it is none, or where its weight is not a constant."""
    name = key(node)
    if name == "linear":
        return _linear(program, node)
    if name in EVERY:
        return _convolution(program, node)
    if name in ("matmul", "mm", "bmm", "mv"):
        return _product(program, node, node.args[0], node.args[1])
    if name == "addmm":
        return _product(program, node, node.args[1], node.args[2], node.args[0])
    return _einsum(program, node) if name == "einsum" else None


def matrix(layer: Layer, weight: Tensor) -> Tensor:
    """The weight as ``[groups, outputs, inputs, points]``: a sum over inputs and points per group of a convolution."""
    if layer.channel is not None and weight.dim() > 2:
        points = math.prod(weight.shape[2:])
        split = weight.reshape(layer.groups, weight.shape[0] // layer.groups, weight.shape[1], points)
        return split if layer.into == 1 else split.transpose(1, 2)
    return weight.movedim(layer.into, -1).reshape(1, -1, weight.shape[layer.into], 1)


def embeds(node: fx.Node) -> bool:
    """Whether a node looks up rows of a table, whose columns it produces."""
    return key(node) in ("embedding", "embedding_bag")


def _weight(program: Program, argument: object) -> str:
    return str(argument.target) if isinstance(argument, fx.Node) and program.weight(argument) is not None else ""


def _linear(program: Program, node: fx.Node) -> Layer | None:
    given = arguments(node)
    source, name, bias = given["input"], _weight(program, given["weight"]), _weight(program, given["bias"])
    if not name:
        return None
    rank, out = fake(given["weight"]).dim(), fake(node).dim()
    return Layer(
        node.name, source.name, fake(source).dim() - 1, name, bias, rank - 1, tuple(range(rank - 1)),
        channel=out - 1 if rank == 2 else None,
    )  # fmt: skip


def _convolution(program: Program, node: fx.Node) -> Layer | None:
    given = arguments(node)
    source, name, bias = given["input"], _weight(program, given["weight"]), _weight(program, given["bias"])
    if not name:
        return None
    spatial = fake(given["weight"]).dim() - 2
    channel = fake(source).dim() - spatial - 1
    into, out = (0, (1,)) if is_transposed(node) else (1, (0,))
    return Layer(node.name, source.name, channel, name, bias, into, out, int(given["groups"]), channel)


def _product(program: Program, node: fx.Node, left: object, right: object, added: object = None) -> Layer | None:
    """``x W`` or ``W x``; leading dimensions of the weight, such as experts, count as outputs."""
    assert isinstance(left, fx.Node) and isinstance(right, fx.Node)
    first, second = _weight(program, left), _weight(program, right)
    if bool(first) == bool(second):
        return None
    weight, source = (right, left) if second else (left, right)
    rank, other = fake(weight).dim(), fake(source).dim()
    into = max(rank - 2, 0) if second else rank - 1
    dim = other - 1 if second else max(other - 2, 0)
    out = tuple(d for d in range(rank) if d != into)
    channel = fake(node).dim() - 1 if second and rank == 2 else None
    bias = _weight(program, added)
    return Layer(
        node.name, source.name, dim, second or first, bias if bias and fake(added).dim() == 1 else "", into, out,
        channel=channel,
    )  # fmt: skip


def _einsum(program: Program, node: fx.Node) -> Layer | None:
    """An einsum of one activation and one weight; the first letter that is summed away."""
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    if not isinstance(operands, list | tuple) or len(operands) != 2 or "..." in equation or "->" not in equation:
        return None
    names = [_weight(program, item) for item in operands]
    if bool(names[0]) == bool(names[1]):
        return None
    left, result = equation.split("->")
    letters, place = left.split(","), 0 if names[0] else 1
    mine, others = letters[place], letters[1 - place]
    summed = [letter for letter in mine if letter in others and letter not in result]
    source = operands[1 - place]
    if not summed or not isinstance(source, fx.Node):
        return None
    into = mine.index(summed[0])
    out = tuple(d for d in range(len(mine)) if d != into)
    return Layer(node.name, source.name, others.index(summed[0]), names[place], "", into, out)


def layers(program: Program) -> dict[str, Layer]:
    """All layers of a program by node name."""
    found = ((node.name, layer(program, node)) for node in program.nodes if node.op == "call_function")
    return {name: item for name, item in found if item is not None}


def tables(program: Program) -> set[tuple[str, int]]:
    """The (weight, dimension) pairs of embedding tables that hold their columns."""
    rows = (_weight(program, node.args[0]) for node in program.nodes if embeds(node))
    return {(name, 1) for name in rows if name}


def energy(weight: Tensor) -> Tensor:
    """Squares in float64, so that half-precision weights neither overflow nor vanish."""
    return weight.detach().to(torch.float64).square()
