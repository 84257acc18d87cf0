"""Streams: values between layers that scale as a whole when the layers that make them do, channel by channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from tersor.axes import Axes, analyze
from tersor.axes.flow import Dims
from tersor.axes.select import owners
from tersor.axes.terms import Axis, Term, leaves, resolve, size
from tersor.convolution import CONVOLUTIONS
from tersor.passes._weights import shared_with
from tersor.program import Program
from tersor.rewrite_values import arguments, fake, key

LAYERS = ("linear", *CONVOLUTIONS)

_JOINT = ("add", "sub", "cat", "maximum", "minimum", "stack")
_ALONE = (
    "relu", "leaky_relu", "neg", "abs", "clone", "contiguous", "dropout", "reshape", "view", "flatten", "unflatten",
    "permute", "transpose", "squeeze", "unsqueeze", "select", "slice", "expand", "split", "split_with_sizes", "getitem",
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d", "mean", "sum", "amax", "upsample_nearest2d",
    "upsample_bilinear2d",
)  # fmt: skip
"""Operators f with ``f(s x) = s f(x)`` for every positive s, of several values together and of one."""


@dataclass
class Stream:
    """Values that layers make and layers read, with nothing in between that does not scale with them.

    Attributes:
        makers, readers: convolutions and linear layers, in order.
        values: the nodes.
        problem: why channels may not be scaled; empty where they may.
        channels: how many there are.
        out: for each maker the channel that each of its outputs is, int64.
        into: for each reader the channel that each of its inputs is, int64.
    """

    makers: list[fx.Node] = field(default_factory=list)
    readers: list[fx.Node] = field(default_factory=list)
    values: list[fx.Node] = field(default_factory=list)
    problem: str = ""
    channels: int = 0
    out: dict[fx.Node, Tensor] = field(default_factory=dict)
    into: dict[fx.Node, Tensor] = field(default_factory=dict)

    def sources(self) -> Iterator[tuple[fx.Node, int]]:
        """The values that are read, and their dimension of channels."""
        for node in self.readers:
            yield arguments(node)["input"], _channel(node)


def streams(program: Program) -> list[Stream]:
    """All streams that layers make, those with a problem too, in order."""
    axes, found = analyze(program), _grouped(program)
    for stream in found:
        stream.problem = stream.problem or _layer_problem(program, stream) or _number(axes, stream)
    return found


def _grouped(program: Program) -> list[Stream]:
    parent: dict[fx.Node, fx.Node] = {}

    def root(node: fx.Node) -> fx.Node:
        while parent.setdefault(node, node) is not node:
            node = parent[node]
        return node

    nodes = [node for node in program.nodes if node.op != "get_attr"]
    for node in nodes:
        for source in node.all_input_nodes if _scales(node) else ():
            if source.op != "get_attr" and _is_value(source):
                parent[root(node)] = root(source)
    made: dict[fx.Node, Stream] = {}
    for node in nodes:
        if _is_value(node):
            _add(made.setdefault(root(node), Stream()), node)
    return [stream for stream in made.values() if stream.makers]


def _add(stream: Stream, node: fx.Node) -> None:
    stream.values.append(node)
    if key(node) in LAYERS:
        stream.makers.append(node)
    elif not _scales(node):
        stream.problem = stream.problem or f"{node.name}, which is no layer, makes a part of these channels"
    for user in node.users:
        if key(user) in LAYERS and arguments(user)["input"] is node:
            if user not in stream.readers:
                stream.readers.append(user)
        elif not _scales(user) and key(user) != "sym_size":
            stream.problem = stream.problem or f"{user.name} reads {node.name} and does not scale with it"


def _is_value(node: fx.Node) -> bool:
    found = node.meta.get("val")
    return isinstance(found, torch.Tensor | list | tuple) and node.op != "output"


def _scales(node: fx.Node) -> bool:
    """Whether an operator's result scales with its operands."""
    name, given = key(node), arguments(node)
    constants = any(source.op == "get_attr" for source in node.all_input_nodes)
    if name in ("mul", "div"):
        return isinstance(node.args[1], int | float)
    if name in ("constant_pad_nd", "pad"):
        return not given.get("value")
    if name in ("add", "sub"):
        return not constants and isinstance(given["other"], fx.Node)
    return (name in _JOINT or name in _ALONE) and not constants


def _channel(node: fx.Node) -> int:
    """The dimension of a layer's input or result that its channels lie along."""
    return -1 if key(node) == "linear" else -1 - int(key(node)[-2])


def _layer_problem(program: Program, stream: Stream) -> str:
    for node in {*stream.makers, *stream.readers}:
        given = arguments(node)
        weight = program.weight(given["weight"])
        if weight is None or (given["bias"] is not None and program.weight(given["bias"]) is None):
            return f"the weight or bias of {node.name} is computed in the graph"
        if not weight.dtype.is_floating_point or not bool(weight.isfinite().all()):
            return f"the weight of {node.name} is {weight.dtype}, or not finite"
        if shared_with(program, given["weight"], node) is not None:
            return f"the weight of {node.name} is read by others too"
    return ""


def _number(axes: Axes, stream: Stream) -> str:
    """Number the channels, and find them in every value; returns why that cannot be done."""
    if not stream.readers:
        return "no layer reads it"
    outs = {node: _term(axes.values[node.name], _channel(node)) for node in stream.makers}
    ids = list(dict.fromkeys(axis for term in outs.values() for axis in leaves(term)))
    if not all(isinstance(axis.size, int) for axis in ids):
        return "the number of channels differs from call to call"
    first, total = {}, 0
    for axis in ids:
        first[axis], total = total, total + int(axis.size)
    for node in stream.values:
        if not all(_carries(dims, ids) for dims in _tensors(axes.values[node.name])):
            return f"the channels of {node.name} are not those that the layers make, one by one"
    names = {node.name for node in stream.values if key(node) not in LAYERS}
    places = [(item.node, item.term) for item in axes.spans] + [(item.node, item.term) for item in axes.contractions]
    for name, term in places:
        if name in names and set(leaves(term)) & set(ids):
            return f"{name} mixes the channels"
    stream.channels = total
    stream.out = {node: _places(term, first) for node, term in outs.items()}
    for node in stream.readers:
        source = arguments(node)["input"]
        term = _term(axes.values[source.name], _channel(node))
        if size(term) != fake(source).shape[_channel(node)] or not _whole(term, ids):
            return f"{node.name} sums over something else than these channels"
        stream.into[node] = _places(term, first)
    return ""


def _term(value: Any, dim: int) -> Term:
    found: Term = resolve(value[dim])
    return found


def _tensors(value: Any) -> Iterator[Dims]:
    if isinstance(value, list):
        for item in value:
            yield from _tensors(item)
    elif value is not None:
        yield value


def _carries(dims: Dims, ids: list[Axis]) -> bool:
    """Whether the channels lie along one dimension, each position one of them."""
    along = [term for term in dims if set(leaves(term)) & set(ids)]
    return len(along) == 1 and _whole(along[0], ids)


def _whole(term: Term, ids: list[Axis]) -> bool:
    """Whether each position of a dimension belongs to exactly one channel."""
    if not isinstance(size(term), int) or not all(isinstance(axis.size, int) for axis in leaves(term)):
        return False
    held = sum((owners(term, axis) >= 0).long() for axis in ids)
    return isinstance(held, Tensor) and bool((held == 1).all())


def _places(term: Term, first: dict[Axis, int]) -> Tensor:
    """The number of the channel at each position."""
    made = torch.zeros(int(size(term)), dtype=torch.int64)
    for axis, start in first.items():
        own = owners(term, axis)
        made = torch.where(own >= 0, own + start, made)
    return made
