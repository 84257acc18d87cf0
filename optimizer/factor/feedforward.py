"""Feed-forward blocks of a program: linear layers on one input, elementwise operators, a linear layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from tersor.program import Program
from tersor.rewrite_values import arguments, fake, key, known, tensor

_ACTIVATIONS = frozenset({"gelu", "silu", "relu", "relu6", "mish", "elu", "hardswish", "leaky_relu", "mul", "add"})


@dataclass(frozen=True)
class Leaf:
    """A linear layer on the block's input, or a part of one, that gives hidden units.

    Attributes:
        node: its result.
        weight: (units, in).
        bias: (units,) or None.
    """

    node: fx.Node
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class FeedForward:
    """A block.

    Attributes:
        down: the linear layer behind the hidden units.
        source: what the block reads.
        leaves: the layers before them; two for a gated block.
        inner: elementwise nodes in execution order, the last one gives the hidden units.
        weight: (out, units) of ``down``.
        bias: (out,) or None.
    """

    down: fx.Node
    source: fx.Node
    leaves: tuple[Leaf, ...]
    inner: tuple[fx.Node, ...]
    weight: Tensor
    bias: Tensor | None

    @property
    def hidden(self) -> fx.Node:
        """The node that gives the hidden units."""
        return self.inner[-1]

    @property
    def units(self) -> int:
        """How many hidden units there are."""
        return int(self.weight.shape[1])


def feedforwards(program: Program) -> Iterator[FeedForward]:
    """All feed-forward blocks with constant weights, in order."""
    order = {node: place for place, node in enumerate(program.nodes)}
    for node in list(program.nodes):
        if key(node) == "linear":
            found = _block(program, node, order)
            if found is not None:
                yield found


def _block(program: Program, down: fx.Node, order: dict[fx.Node, int]) -> FeedForward | None:
    given = arguments(down)
    weight, bias = program.weight(given["weight"]), program.weight(given["bias"])
    hidden = given["input"]
    if weight is None or weight.dim() != 2 or (bias is None) != (given["bias"] is None):
        return None
    leaves: dict[fx.Node, Leaf] = {}
    inner: list[fx.Node] = []
    waiting, readers = [hidden], {down}
    while waiting:
        node = waiting.pop()
        if node in leaves or node in inner:
            continue
        leaf = _leaf(program, node)
        if leaf is not None and len(leaf.weight) == weight.shape[1]:
            leaves[node] = leaf
        elif _is_elementwise(node, hidden):
            inner.append(node)
            waiting += [item for item in node.all_input_nodes if program.weight(item) is None]
        else:
            return None
    readers |= set(inner)
    closed = all(set(node.users) <= readers for node in [*leaves, *inner])
    sources = {_source(node) for node in leaves}
    if not closed or len(sources) != 1 or not inner:
        return None
    ordered = tuple(sorted(inner, key=order.__getitem__))
    return FeedForward(down, sources.pop(), tuple(leaves.values()), ordered, weight, bias)


def _leaf(program: Program, node: fx.Node) -> Leaf | None:
    linear, rows = node, slice(None)
    if key(node) == "getitem" and key(node.args[0]) in ("split_with_sizes", "split", "chunk"):
        linear = node.args[0].args[0]  # type: ignore[union-attr, assignment]
        rows = _rows(node)
    if key(linear) != "linear":
        return None
    given = arguments(linear)
    weight, bias = program.weight(given["weight"]), program.weight(given["bias"])
    if weight is None or weight.dim() != 2 or (bias is None) != (given["bias"] is None):
        return None
    return Leaf(node, weight[rows], None if bias is None else bias[rows])


def _rows(node: fx.Node) -> slice:
    """Which features of the split tensor a part holds; nothing where the split is not of the last dimension."""
    parts, index = node.args
    assert isinstance(parts, fx.Node) and isinstance(index, int)
    widths = [known(value.shape[-1]) or 0 for value in parts.meta["val"]]
    if sum(widths) != known(fake(parts.args[0]).shape[-1]):
        return slice(0)
    start = sum(widths[:index])
    return slice(start, start + widths[index])


def _source(node: fx.Node) -> fx.Node:
    linear = node if key(node) == "linear" else node.args[0].args[0]  # type: ignore[union-attr]
    return linear.args[0]  # type: ignore[union-attr, return-value]


def _is_elementwise(node: fx.Node, hidden: fx.Node) -> bool:
    """Whether a node computes each hidden unit by itself, from others of the same shape and single numbers."""
    target = node.target
    tagged = isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags
    if not (tagged or key(node) in _ACTIVATIONS):
        return False
    shape = fake(hidden).shape
    values = [value for item in node.all_input_nodes if (value := tensor(item)) is not None]
    return fake(node).shape == shape and all(value.shape == shape or value.numel() == 1 for value in values)
