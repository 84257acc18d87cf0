"""Residual blocks ``x + f(x)`` of a program, found by their shape, and what becomes of the outputs without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tersor.cost.flops import flops
from tersor.interface import Flat
from tersor.program import Program
from tersor.rewrite import replace
from tersor.rewrite_values import argument, key, same_type


@dataclass(frozen=True)
class Block:
    """What stands between a stream and the place where something is added to it.

    Attributes:
        end: the node that the stream can stand for: the sum, or what follows it where the stream is the same thing,
            such as the norm behind the sum where the stream comes from a norm.
        stream: the node that the block reads and passes on.
        inner: nodes that nobody reads without the block, in execution order, the end last.
        work: floating-point operations in it.
    """

    end: fx.Node
    stream: fx.Node
    inner: tuple[fx.Node, ...]
    work: int

    @property
    def weights(self) -> tuple[fx.Node, ...]:
        """The nodes of its weights, in the order in which they are read."""
        reads = [item for node in self.inner for item in node.all_input_nodes if item.op == "get_attr"]
        inside = set(self.inner)
        return tuple(dict.fromkeys(item for item in reads if item in inside))


def blocks(program: Program) -> Iterator[Block]:
    """All residual blocks that compute something, in order; one may lie inside another."""
    order = {node: place for place, node in enumerate(program.nodes)}
    for node in list(program.nodes):
        if key(node) != "add" or argument(node, "alpha") != 1:
            continue
        stream = _stream(node, order)
        if stream is None:
            continue
        end = _end(node, stream)
        inner = _inner(end, stream, order)
        work = sum(flops(item) or 0 for item in inner)
        if any(item.op == "get_attr" and item is not stream for item in inner) and work:
            yield Block(end, stream, inner, work)


def _stream(node: fx.Node, order: dict[fx.Node, int]) -> fx.Node | None:
    """The operand of a sum on which the other one depends."""
    for stream, branch in (node.args[:2], node.args[1::-1]):
        if not isinstance(stream, fx.Node) or not isinstance(branch, fx.Node) or stream.op == "get_attr":
            continue
        if stream is not branch and same_type(stream, node) and _depends(branch, stream, order):
            return stream
    return None


def _depends(node: fx.Node, on: fx.Node, order: dict[fx.Node, int]) -> bool:
    waiting, seen = [node], {node}
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source is on:
                return True
            if source not in seen and order[source] > order[on]:
                seen.add(source)
                waiting.append(source)
    return False


def _end(node: fx.Node, stream: fx.Node) -> fx.Node:
    """A norm or activation behind the sum belongs to the block where the stream has gone through one like it."""
    users = list(node.users)
    follows = len(users) == 1 and users[0].op == "call_function" and users[0].args[0] is node
    return users[0] if follows and key(users[0]) == key(stream) and same_type(users[0], node) else node


def _inner(end: fx.Node, stream: fx.Node, order: dict[fx.Node, int]) -> tuple[fx.Node, ...]:
    dead, waiting = {end}, [end]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            dying = source is not stream and source.op in ("call_function", "get_attr") and source not in dead
            if dying and all(user in dead for user in source.users):
                dead.add(source)
                waiting.append(source)
    return tuple(sorted(dead, key=order.__getitem__))


def bypass(program: Program, end: str, stream: str) -> None:
    """Let the stream stand for the end of a block, in place."""
    nodes = {node.name: node for node in program.nodes}
    replace(program, nodes[end], nodes[stream])
    program.prune_weights()


def alike(first: Block, second: Block) -> bool:
    """Whether two blocks do the same with weights of the same shapes."""
    return _signature(first) == _signature(second)


def _signature(block: Block) -> list[Any]:
    places = {node: place for place, node in enumerate(block.inner)}
    weights = set(block.weights)

    def described(item: fx.Node) -> Any:
        if item is block.stream:
            return "stream"
        return ("inner", places[item]) if item in places else ("outer", item.name)

    made: list[Any] = []
    for node in block.inner:
        if node in weights:
            value = node.meta["val"]
            made.append((tuple(value.shape), str(value.dtype)))
        else:
            arguments = fx.node.map_aggregate(
                (node.args, node.kwargs), lambda item: described(item) if isinstance(item, fx.Node) else item
            )
            made.append((str(node.target), repr(arguments)))
    return made


def share(program: Program, block: Block, other: Block) -> None:
    """Give a block the weights of one that is `alike`, in place."""
    for own, model in zip(block.weights, other.weights, strict=True):
        own.target = model.target
    program.prune_weights()
    program.changed()


def change(wanted: Sequence[Flat], got: Sequence[Flat]) -> float:
    """How far outputs moved: the energy of the difference by that of the spread around the mean, averaged over outputs.

    Outputs that are no floating numbers count by the share of different elements.
    """
    scores = [
        _moved([row[place] for row in wanted], [row[place] for row in got])
        for place in range(len(wanted[0]) if wanted else 0)
    ]
    return sum(scores) / max(len(scores), 1)


def _moved(wanted: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    if not wanted[0].is_floating_point():
        unequal = sum(int((a != b).sum()) for a, b in zip(wanted, got, strict=True))
        return unequal / max(sum(a.numel() for a in wanted), 1)
    gap = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(wanted, got, strict=True))
    spread = sum(float((a.double() - a.double().mean(0, keepdim=True)).square().sum()) for a in wanted)
    moved = gap / max(spread, 1e-30)
    return moved if moved == moved else float("inf")


def influence(stream: Tensor, end: Tensor) -> float:
    """1 minus the mean cosine between what goes in and what comes out (block influence, ShortGPT, arXiv:2403.03853).

    Features are the last dimension, or the second of four or more.
    """
    dim = 1 if stream.dim() > 3 else -1
    return 1.0 - float(torch.cosine_similarity(stream.double(), end.double(), dim=dim).mean())
