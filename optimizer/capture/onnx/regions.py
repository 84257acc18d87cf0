"""Cutting a graph into steps: single nodes, and regions whose inner values are not torch tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnx import NodeProto, TypeProto

from tersor.capture.onnx.dtypes import TORCH_DTYPES
from tersor.capture.onnx.graph import Graph, bodies, label, used
from tersor.errors import CaptureError

_SEQUENCE_OPERATORS = {
    "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SplitToSequence", "SequenceMap",
    "Optional", "ZipMap", "DictVectorizer",
}  # fmt: skip
"""Operators whose output is never a tensor, for graphs whose types cannot be inferred."""


@dataclass(frozen=True)
class Step:
    """What the replay runs at once.

    Attributes:
        nodes: one node, or the nodes of a region in topological order.
        inputs: values from outside, with those that bodies capture.
        outputs: values that others use; of a single node all its outputs, with '' for absent ones.
        reason: why this must be opaque; empty where a torch function may exist.
    """

    nodes: tuple[NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reason: str = ""


def check_border(graph: Graph) -> None:
    """Raise `CaptureError` where an input or output of the graph is no tensor of a type that torch has."""
    for value in (*graph.inputs, *graph.outputs):
        if _is_foreign(graph.types.get(value.name, value.type)):
            raise CaptureError(
                f"'{value.name}' at the border of the model is no tensor of a type that torch has",
                "the file can be run and kept as it is, but not rewritten",
            )


def steps_of(graph: Graph) -> list[Step]:
    """The steps in topological order.

    Raises:
        CaptureError: an input or output of the graph is a sequence, map, optional, string or 4-bit tensor.
    """
    check_border(graph)
    foreign = _foreign_values(graph)
    regions = _convex(graph.nodes, _joined(graph.nodes, foreign)) if foreign else {}
    members: dict[int, list[int]] = {}
    for index, region in sorted(regions.items()):
        members.setdefault(region, []).append(index)
    wanted = _wanted_outside(graph, regions)
    groups = [members.get(regions.get(i, -1), [i]) for i in range(len(graph.nodes))]
    chosen = {group[-1]: group for group in groups}
    return [_step(graph, group, wanted, foreign) for group in _in_order(graph.nodes, list(chosen.values()))]


def _is_foreign(kind: TypeProto) -> bool:
    field = kind.WhichOneof("value")
    return field is not None and (field != "tensor_type" or kind.tensor_type.elem_type not in {*TORCH_DTYPES, 0})


def _foreign_values(graph: Graph) -> set[str]:
    found = {name for name, kind in graph.types.items() if _is_foreign(kind)}
    found |= {name for name, proto in graph.constants.items() if proto.data_type not in TORCH_DTYPES}
    for node in graph.nodes:
        if node.op_type in _SEQUENCE_OPERATORS:
            found.update(node.output)
    return found - {""}


def _joined(nodes: tuple[NodeProto, ...], foreign: set[str]) -> dict[int, int]:
    """Region number of every node that touches a foreign value: producer and users of one value share it."""
    parent: dict[int, int] = {}

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[str, int] = {}
    for index, node in enumerate(nodes):
        touched = [name for name in (*used(node), *node.output) if name in foreign]
        if touched:
            parent[index] = index
        for name in touched:
            parent[root(first.setdefault(name, index))] = root(index)
    return {index: root(index) for index in parent}


def _convex(nodes: tuple[NodeProto, ...], regions: dict[int, int]) -> dict[int, int]:
    """Regions with every node that lies on a path from a region back into it, so that each can run at once."""
    users = _users(nodes)
    while True:
        grown = dict(regions)
        for region in sorted(set(regions.values())):
            inside = {index for index, number in regions.items() if number == region}
            for index in _between(users, inside):
                _merge(grown, index, region)
        if grown == regions:
            return regions
        regions = grown


def _merge(regions: dict[int, int], index: int, region: int) -> None:
    other = regions.get(index, index)
    regions[index] = region
    for member, number in list(regions.items()):
        if number == other:
            regions[member] = region


def _users(nodes: tuple[NodeProto, ...]) -> list[list[int]]:
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    users: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes):
        for source in {producer[name] for name in used(node) if name in producer}:
            users[source].append(index)
    return users


def _between(users: list[list[int]], inside: set[int]) -> set[int]:
    """Nodes outside that depend on the region and that the region depends on."""
    low, high = min(inside), max(inside)
    after = set(inside)
    for index in range(low, high + 1):
        if index in after:
            after.update(user for user in users[index] if user <= high)
    before = set(inside)
    for index in range(high, low - 1, -1):
        if any(user in before for user in users[index]):
            before.add(index)
    return (after & before) - inside


def _wanted_outside(graph: Graph, regions: dict[int, int]) -> set[str]:
    """Values that a region must return, because something outside it uses them."""
    wanted = {value.name for value in graph.outputs}
    producer = {name: index for index, node in enumerate(graph.nodes) for name in node.output if name}
    for index, node in enumerate(graph.nodes):
        for name in used(node):
            if name in producer and regions.get(producer[name], -1) != regions.get(index, -2):
                wanted.add(name)
    return wanted


def _in_order(nodes: tuple[NodeProto, ...], groups: list[list[int]]) -> list[list[int]]:
    """Groups in an order in which each comes after those it needs (groups are convex, so there is one)."""
    group_of = {index: number for number, group in enumerate(groups) for index in group}
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    placed: set[int] = set()
    order: list[list[int]] = []
    for start in range(len(groups)):
        stack = [start]
        while stack:
            number = stack[-1]
            sources = {producer[n] for index in groups[number] for n in used(nodes[index]) if n in producer}
            missing = {group_of[source] for source in sources} - placed - {number}
            if missing and number not in placed:
                stack.extend(sorted(missing))
                continue
            stack.pop()
            if number not in placed:
                placed.add(number)
                order.append(groups[number])
    return order


def _step(graph: Graph, group: list[int], wanted: set[str], foreign: set[str]) -> Step:
    nodes = tuple(graph.nodes[index] for index in group)
    made = {name for node in nodes for name in node.output}
    inputs = tuple(dict.fromkeys(name for node in nodes for name in used(node) if name not in made))
    touched = [name for node in nodes for name in (*used(node), *node.output) if name in foreign]
    if not touched:
        reason = f"{label(nodes[0])} has bodies" if any(True for _ in bodies(nodes[0])) else ""
        return Step(nodes, inputs, tuple(nodes[0].output), reason)
    outputs = tuple(name for node in nodes for name in node.output if name in wanted)
    return Step(nodes, inputs, outputs, f"'{touched[0]}' is no tensor of a type that torch has")


def names_in(steps: Iterable[Step]) -> set[str]:
    """Every value that some step reads."""
    return {name for step in steps for name in step.inputs}
