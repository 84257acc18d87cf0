"""Which operators a backend runs together, and which views it has to copy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from tersor.cost import kinds
from tersor.cost.operators import PERMUTES, SLICES
from tersor.cost.precision import PRODUCTS
from tersor.cost.shapes import shape_of
from tersor.rewrite_values import key

CONVOLUTIONS = ("conv", "pointwise_conv", "grouped_conv", "depthwise")
_ENDS = frozenset(
    ("relu", "relu6", "hardtanh", "clamp", "clamp_min", "leaky_relu", "sigmoid", "hardswish", "hardsigmoid", "tanh")
)
"""Activations that ONNX Runtime computes inside a convolution."""
_PLAIN = frozenset(("clone", "contiguous", "reshape", "flatten", "_unsafe_view", "lift_fresh_copy", "alias", "detach"))
"""Operators that an ONNX file does without, or that change no memory there."""


@dataclass(frozen=True)
class Fusion:
    """Which operators a backend runs in one kernel.

    Attributes:
        epilogue: elementwise operators and batch norms join the product whose result they take.
        chain: elementwise operators join each other and the norms, reductions and copies before them.
        ends: of elementwise operators only these join a product, and nothing after them; empty for any.
        copies: views that order memory anew are copied, and what depends on weights alone is computed beforehand.
        blocked: convolutions work on blocks of channels, and numbers are converted at the borders.
    """

    epilogue: bool = False
    chain: bool = False
    ends: frozenset[str] = frozenset()
    copies: bool = False
    blocked: bool = False


FUSION = {
    "eager": Fusion(),
    "inductor": Fusion(chain=True),
    "triton": Fusion(epilogue=True, chain=True),
    "onnxruntime": Fusion(epilogue=True, ends=_ENDS, copies=True, blocked=True),
    "openvino": Fusion(epilogue=True, chain=True, copies=True),
    "tensorrt": Fusion(epilogue=True, chain=True),
}


@dataclass(frozen=True)
class Reader:
    """A graph as one backend sees it.

    Attributes:
        fusion: its rules.
        constants: nodes that depend on weights alone, where those are computed beforehand.
    """

    fusion: Fusion
    constants: frozenset[fx.Node] = field(default_factory=frozenset)

    @classmethod
    def of(cls, graph: fx.Graph, fusion: Fusion) -> Reader:
        """The reader of a whole graph."""
        if not fusion.copies:
            return cls(fusion)
        known: set[fx.Node] = set()
        for node in graph.nodes:
            computed = node.op == "call_function" and all(source in known for source in node.all_input_nodes)
            if node.op == "get_attr" or computed:
                known.add(node)
        return cls(fusion, frozenset(known))

    def kind(self, node: fx.Node) -> str:
        """The kind of kernel that runs a node, see `tersor.cost.kinds.kind`; "permute" for memory in a new order."""
        if not self.fusion.copies:
            return kinds.kind(node)
        if node in self.constants or node.op != "call_function":
            return ""
        name = key(node)
        if name in PERMUTES:
            return "permute" if reorders(node) else ""
        if name in SLICES:
            return "move" if _resizes(node) else ""
        return "" if name in _PLAIN else kinds.kind(node)

    def owner(self, node: fx.Node) -> fx.Node:
        """The node whose memory a node shows."""
        while node.op == "call_function" and node not in self.constants and node.all_input_nodes:
            if not (self._shows(node) or dequantizes(node)):
                break
            node = node.all_input_nodes[0]
        return node

    def is_weight(self, node: fx.Node) -> bool:
        """Whether a node is a weight or was computed from weights beforehand."""
        return node.op == "get_attr" or node in self.constants

    def producers(self, node: fx.Node) -> Iterator[fx.Node]:
        """The operators whose results a node reads, views in between skipped."""
        for source in node.all_input_nodes:
            owner = self.owner(source)
            if owner.op == "call_function" and owner not in self.constants:
                yield owner

    def _shows(self, node: fx.Node) -> bool:
        return not self.kind(node) if self.fusion.copies else kinds.is_alias(node)


def groups(graph: fx.Graph, reader: Reader) -> list[list[fx.Node]]:
    """The nodes of each kernel, the first that starts it first."""
    where: dict[fx.Node, list[fx.Node]] = {}
    order: dict[fx.Node, int] = {}
    found: list[list[fx.Node]] = []
    for node in graph.nodes:
        if not (sort := reader.kind(node)):
            continue
        source = max(reader.producers(node), key=lambda item: order.get(item, -1), default=None)
        joined = where.get(source) if source is not None else None
        if joined is None or source is None or not _joins(node, sort, joined, len(source.users) == 1, reader):
            joined = []
            found.append(joined)
        joined.append(node)
        where[node] = joined
        order[node] = len(order)
    return found


def _joins(node: fx.Node, sort: str, group: list[fx.Node], alone: bool, reader: Reader) -> bool:
    """Whether a node runs with the latest of what it reads; ``alone`` where nobody else reads that."""
    first, fusion = reader.kind(group[0]), reader.fusion
    if fusion.ends:
        return alone and _ends(node, sort, first, group)
    if sort not in ("elementwise", "batch_norm"):
        return fusion.chain and sort in ("norm", "softmax", "reduction") and first == "elementwise"
    if first in PRODUCTS:
        return fusion.epilogue and alone and first != "attention"
    return fusion.chain


def _ends(node: fx.Node, sort: str, first: str, group: list[fx.Node]) -> bool:
    """ONNX Runtime's rules: a convolution takes batch norm, a sum and one activation; a sum is normalised at once."""
    name, last = key(node), key(group[-1])
    if sort == "norm":
        return len(group) == 1 and last == "add" and name in ("layer_norm", "native_layer_norm")
    if name.startswith("quantized_decomposed::quantize"):
        return first in PRODUCTS
    if last in _ENDS or sort not in ("elementwise", "batch_norm"):
        return False
    if first == "linear":
        return name in _ENDS
    return first in (*CONVOLUTIONS, "batch_norm") and (name in _ENDS or name == "add" or sort == "batch_norm")


def reorders(node: fx.Node) -> bool:
    """Whether a permutation moves anything: axes of one element do not count."""
    source = node.all_input_nodes[0].meta.get("val") if node.all_input_nodes else None
    if source is None or source.dim() < 2:
        return False
    order = [axis for axis in permutation(node) if shape_of(node.all_input_nodes[0])[axis] != 1]
    return order != sorted(order)


def permutation(node: fx.Node) -> list[int]:
    """Which axis of what it reads each axis of a permuted tensor is."""
    rank, name = node.all_input_nodes[0].meta["val"].dim(), key(node)
    order = list(range(rank))
    if name == "permute":
        return [int(axis) % rank for axis in node.args[1]]  # type: ignore[union-attr,arg-type]
    if name in ("transpose", "swapaxes"):
        first, second = (int(axis) % rank for axis in node.args[1:3])  # type: ignore[arg-type]
    elif name == "movedim":
        return _moved(rank, *node.args[1:3])
    else:
        first, second = rank - 2, rank - 1
    order[first], order[second] = order[second], order[first]
    return order


def _moved(rank: int, source: Any, destination: Any) -> list[int]:
    sources = [int(axis) % rank for axis in (source if isinstance(source, list | tuple) else [source])]
    places = [int(axis) % rank for axis in (destination if isinstance(destination, list | tuple) else [destination])]
    order = [axis for axis in range(rank) if axis not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        order.insert(place, axis)
    return order


def kept_run(node: fx.Node) -> int:
    """Elements that stay neighbours when memory is put into a new order."""
    shape = shape_of(node.all_input_nodes[0])
    order = [axis for axis in permutation(node) if shape[axis] != 1]
    axes = [axis for axis in range(len(shape)) if shape[axis] != 1]
    run = 1
    while order and axes and order[-1] == axes[-1]:
        run *= shape[axes.pop()]
        order.pop()
    return run


def _resizes(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return len(value) > 1
    return math.prod(shape_of(node)) != math.prod(shape_of(node.all_input_nodes[0]))


def dequantizes(node: fx.Node) -> bool:
    """Whether a node only tells what integers stand for."""
    return key(node).startswith("quantized_decomposed::dequantize")
