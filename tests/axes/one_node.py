"""A flow rule on one call of its operator: cut random indices, compare with the whole result cut afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from tersor.axes.analysis import Axes, _call
from tersor.axes.flow import Flow, Meaning, Value, fresh, fresh_value
from tersor.axes.groups import _pin_repeats
from tersor.axes.meaning import result
from tersor.axes.remove import narrowed, remove
from tersor.axes.select import Kept, indices, touched
from tersor.axes.terms import Axis, leaves
from tersor.axes.zeroed import zeroed
from tersor.interface import Interface
from tersor.program import Program

Place = tuple[int, int]
"""A dimension of an operand: (which tensor argument, which dimension)."""


@dataclass(frozen=True)
class Row:
    """One call of an operator, and how many atomic axes of its operands and results may be cut.

    ``points`` says that the numbers in a tensor argument are positions: into a dimension of another argument, or into
    an axis of a given size that no argument has.
    """

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    free: int = 0
    points: dict[int, Place | int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(getattr(self.target, "name", lambda: "getitem")())


def row(target: Callable[..., Any], *args: Any, free: int, points: Any = None, **kwargs: Any) -> Row:
    return Row(target, args, kwargs, free, points or {})


@dataclass(frozen=True)
class Analysed:
    """A program of one call, with its analysis made by hand: nothing is pinned but by the rule."""

    program: Program
    axes: Axes
    free: list[Axis]
    refused: dict[str, str]


def analysed(case: Row) -> Analysed:
    tensors: list[torch.Tensor] = []
    graph = fx.Graph()

    def operand(item: Any) -> Any:
        if not isinstance(item, torch.Tensor):
            return item
        node = graph.placeholder(f"x{len(tensors)}")
        node.meta["val"] = item
        tensors.append(item)
        return node

    args, kwargs = pytree.tree_map(operand, (case.args, case.kwargs))
    node = graph.call_function(case.target, args, kwargs)
    node.meta["val"] = _listed(case.target(*case.args, **case.kwargs))
    outputs = _outputs(graph, node)
    graph.output(tuple(outputs))
    names = tuple(f"x{i}" for i in range(len(tensors)))
    program = Program(
        graph, {}, tuple(tensors), tuple(tuple(t.shape) for t in tensors), {},
        Interface(names, tuple(item.name for item in outputs)),
    )  # fmt: skip
    return _flow(program, case)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _outputs(graph: fx.Graph, node: fx.Node) -> list[fx.Node]:
    value = node.meta["val"]
    if not isinstance(value, list):
        return [node]
    import operator

    made = []
    for index, item in enumerate(value):
        if isinstance(item, torch.Tensor):
            made.append(graph.call_function(operator.getitem, (node, index)))
            made[-1].meta["val"] = item
    return made


def _flow(program: Program, case: Row) -> Analysed:
    flow = Flow(program)
    for position, node in enumerate(program.placeholders):
        flow.values[node.name] = fresh_value(node.meta["val"])
        place = case.points.get(position)
        if isinstance(place, int):
            flow.meanings[node.name] = Meaning("position", fresh(place))
    for position, place in case.points.items():
        if isinstance(place, tuple):
            term = flow.dims(program.placeholders[place[0]])[place[1]]
            flow.meanings[program.placeholders[position].name] = Meaning("position", term)
    for node in program.nodes:
        if node.op == "call_function":
            flow.values[node.name] = _call(flow, node)
    axes = Axes(
        flow.values, flow.weights, tuple(flow.literals), tuple(flow.contractions), tuple(flow.spans),
        tuple(flow.roles), flow.meanings, flow.unknown,
    )  # fmt: skip
    _pin_repeats(axes)
    found = dict.fromkeys(axis for value in flow.values.values() for axis in _leaves(value))
    found |= dict.fromkeys(axis for item in flow.meanings.values() for axis in leaves(item.term))
    free = [axis for axis in found if not axis.pin and isinstance(axis.size, int) and axis.size > axis.least]
    return Analysed(program, axes, free, flow.unknown)


def _leaves(value: Value) -> Iterator[Axis]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        for term in value:
            yield from leaves(term)


def drawn(free: list[Axis], chance: float, generator: torch.Generator) -> dict[Axis, torch.Tensor]:
    """What stays of some of the axes, in a new order where the axis allows it."""
    kept = {}
    for axis in free:
        if torch.rand((), generator=generator) >= chance:
            continue
        size = int(axis.size)
        count = int(torch.randint(axis.least, size, (), generator=generator))
        stay = torch.randperm(size, generator=generator)[:count]
        kept[axis] = stay.sort().values if axis.ordered else stay
    return kept


def compare(made: Analysed, kept: Kept, generator: torch.Generator) -> None:
    """Assert that the call on what stays gives what stays of the call."""
    program, axes = made.program, made.axes
    inputs = [
        _among_kept(axes, node.name, value, kept, generator)
        for node, value in zip(program.placeholders, program.inputs, strict=True)
    ]
    whole = zeroed(program, axes, kept, inputs)
    smaller = program.clone()
    remove(smaller, axes, kept)
    cut_inputs = [_cut(axes, n.name, v, kept) for n, v in zip(program.placeholders, inputs, strict=True)]
    got = fx.Interpreter(torch.nn.Module(), graph=smaller.graph).run(*cut_inputs)
    for node, value, other in zip(program.outputs, whole, got, strict=True):
        wanted = _cut(axes, node.name, value, kept)
        torch.testing.assert_close(other, wanted, rtol=1e-7, atol=1e-9, equal_nan=True)


def _among_kept(axes: Axes, name: str, value: torch.Tensor, kept: Kept, generator: torch.Generator) -> torch.Tensor:
    """Positions that name only what stays; the operands' other values as they are."""
    found = axes.meanings.get(name)
    if found is None or not touched(found.term, kept):
        return value
    stay = indices(found.term, kept)
    return stay[value % len(stay)]


def _cut(axes: Axes, name: str, value: torch.Tensor, kept: Kept) -> torch.Tensor:
    dims, found = axes.values[name], axes.meanings.get(name)
    value = narrowed(value, dims, kept)
    if found is None or found.kind != "position" or not touched(found.term, kept):
        return value
    stay = indices(found.term, kept).tolist()
    return value.clone().apply_(lambda number: stay.index(number) if number in stay else -1)


__all__ = ["Row", "analysed", "compare", "drawn", "result", "row"]
