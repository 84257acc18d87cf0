"""Two programs run side by side, node by node over all batches at once, so that one pass serves every repair."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tersor.interface import Flat
from tersor.program import Program
from tersor.recover.correspondence import Correspondence


class Side:
    """One program over several batches; values are forgotten after their last reader."""

    def __init__(self, program: Program, batches: Sequence[Flat]) -> None:
        self.program = program
        self.nodes = [node for node in program.nodes if node.op != "output"]
        self.count = len(batches)
        self.values: dict[fx.Node, list[Any]] = {
            node: [flat[place] for flat in batches] for place, node in enumerate(program.placeholders)
        }
        self._dying = _last_readers(self.nodes)

    def compute(self, node: fx.Node) -> list[Any]:
        """The node's result for each batch."""
        with torch.no_grad():
            return [self._call(node, batch) for batch in range(self.count)]

    def value(self, source: fx.Node, batch: int) -> Any:
        """A node's value in one batch."""
        if source.op == "get_attr":
            return self.program.weights[str(source.target)]
        return self.values[source][batch]

    def of(self, source: fx.Node) -> list[Any]:
        """A node's value in every batch."""
        return [self.value(source, batch) for batch in range(self.count)]

    def finish(self, node: fx.Node) -> None:
        """Forget what nobody reads after this node."""
        for dead in self._dying.get(node, ()):
            self.values.pop(dead, None)

    def _call(self, node: fx.Node, batch: int) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: self.value(source, batch))
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _last_readers(nodes: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    last: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        for source in node.all_input_nodes:
            last[source] = node
    dying: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    for source, reader in last.items():
        dying[reader].append(source)
    return dying


def live_bytes(program: Program) -> int:
    """The most that activations take at once, on inputs of the example's size; views count as copies."""
    nodes = [node for node in program.nodes if node.op in ("placeholder", "call_function")]
    dying, alive, most = _last_readers(nodes), dict.fromkeys(program.placeholders, 0), 0
    for node in nodes:
        alive[node] = _bytes(first(node.meta.get("val")))
        most = max(most, sum(alive.values()))
        for dead in dying.get(node, ()):
            alive.pop(dead, None)
    return most


def _bytes(value: Any) -> int:
    if not isinstance(value, torch.Tensor):
        return 0
    sizes = [size.node.hint if isinstance(size, torch.SymInt) else size for size in value.shape]
    return math.prod(size or 1 for size in sizes) * value.element_size()


@dataclass
class Meeting:
    """A node of the damaged program, just run, whose counterpart in the original has run too.

    Attributes:
        node: the damaged program's node.
        twin: its counterpart.
        outputs: the damaged result for each batch, before any repair of the node.
        damaged, original: the two sides, for the values of other nodes.
        correspondence: between them.
        changed: to be set where a repair edited the node's weights.
    """

    node: fx.Node
    twin: fx.Node
    outputs: list[Any]
    damaged: Side
    original: Side
    correspondence: Correspondence
    changed: bool = False

    def targets(self) -> list[torch.Tensor] | None:
        """For each batch what the result should have been; None where the two cannot be compared."""
        found = self._parts(self.twin)
        return found if found is not None and _comparable(found, self.outputs) else None

    def wanted(self, node: fx.Node) -> list[torch.Tensor] | None:
        """What another node's value should be, for each batch; None where its counterpart's value is not at hand."""
        name = self.correspondence.original(node.name)
        twin = next((known for known in self.original.values if known.name == name), None)
        found = None if twin is None else self._parts(twin)
        return found if found is not None and _comparable(found, self.damaged.of(node)) else None

    def _parts(self, twin: fx.Node) -> list[torch.Tensor] | None:
        values = self.original.of(twin)
        made = [self.correspondence.part(twin.name, v) for v in map(first, values) if isinstance(v, torch.Tensor)]
        found = [value for value in made if value is not None]
        return found if len(found) == len(values) else None


def first(value: Any) -> Any:
    """A tensor, or the first of several results, such as that of a batch norm."""
    return value[0] if isinstance(value, list | tuple) and value else value


def _comparable(targets: Sequence[torch.Tensor], outputs: Sequence[Any]) -> bool:
    return all(
        isinstance(got, torch.Tensor) and got.is_floating_point() and got.shape == wanted.shape
        for wanted, got in zip(targets, map(first, outputs), strict=True)
    )


@dataclass(frozen=True)
class Lockstep:
    """Iterating runs both programs and gives the meetings in execution order."""

    original: Program
    damaged: Program
    correspondence: Correspondence
    batches: Sequence[Flat]

    def __iter__(self) -> Iterator[Meeting]:
        left, right = Side(self.original, self.batches), Side(self.damaged, self.batches)
        names = {node.name: node for node in left.nodes if node.op == "call_function"}
        rest, last = iter(left.nodes), None
        for node in right.nodes:
            if node.op != "call_function":
                continue
            twin = names.get(self.correspondence.original(node.name))
            if twin is not None and twin not in left.values:
                last = _advance(left, rest, last, twin)
            outputs = right.compute(node)
            if twin is not None and twin in left.values:
                meeting = Meeting(node, twin, outputs, right, left, self.correspondence)
                yield meeting
                outputs = right.compute(node) if meeting.changed else outputs
            right.values[node] = outputs
            right.finish(node)


def _advance(side: Side, rest: Iterator[fx.Node], last: fx.Node | None, goal: fx.Node) -> fx.Node | None:
    """Run a side up to a node; what that node reads last stays until the next call."""
    for node in rest:
        if last is not None:
            side.finish(last)
        last = node
        if node.op == "call_function":
            side.values[node] = side.compute(node)
        if node is goal:
            break
    return last
