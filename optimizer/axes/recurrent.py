"""Flow through recurrent layers kept whole: hidden units, the gates that hold them, the directions side by side."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from tersor.axes.flow import Dims, Flow, Value, fresh, rule, shape, where
from tersor.axes.terms import Term, concatenation, pin, quotient, size
from tersor.rewrite_values import arguments

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@dataclass(frozen=True)
class _Cell:
    """One layer in one direction: weights of the input, the state, both biases, and the projection."""

    enter: fx.Node
    again: fx.Node
    biases: tuple[fx.Node, ...]
    project: fx.Node | None


@rule(*GATES)
def recurrent(node: fx.Node, flow: Flow) -> Value:
    """``input [.., positions, in]`` to ``[.., positions, directions * hidden]`` and the last states.

    All layers and directions share one state tensor, so they share their hidden units.
    """
    given, gates = arguments(node), GATES[node.target.overloadpacket.__name__]  # type: ignore[union-attr]
    states = given["hx"] if isinstance(given["hx"], list | tuple) else [given["hx"]]
    if "input" not in given:
        return flow.fixed(node, where(node, "a packed sequence"))
    directions = 2 if given["bidirectional"] else 1
    hidden, shown = flow.dims(states[-1])[-1], flow.dims(states[0])[-1]
    projected = size(hidden) != size(shown)
    if not projected:
        flow.tie(hidden, shown)
    cells = _cells(list(given["params"]), given, projected)
    source = flow.dims(given["input"])
    into, reader = source[-1], given["input"]
    for layer in range(int(given["num_layers"])):
        for cell in cells[layer * directions : (layer + 1) * directions]:
            _cell(node, flow, cell, (into, hidden, shown), gates)
            if layer:
                flow.contract(node, cell.enter, 1)
        into = concatenation((shown,) * directions)
    flow.contract(node, reader, -1)
    return _results(node, flow, states, (*source[:-1], into), bool(given["batch_first"]))  # type: ignore[arg-type]


def _cells(params: list[fx.Node], given: dict[str, object], projected: bool) -> list[_Cell]:
    biases = 2 if given["has_biases"] else 0
    count = 2 + biases + projected
    rows = [params[start : start + count] for start in range(0, len(params), count)]
    return [_Cell(row[0], row[1], tuple(row[2 : 2 + biases]), row[-1] if projected else None) for row in rows]


def _cell(node: fx.Node, flow: Flow, cell: _Cell, terms: tuple[Term, Term, Term], gates: int) -> None:
    """Rows of both weights are ``(gate, hidden)``; columns are the input's and the state's."""
    into, hidden, shown = terms
    flow.tie(flow.dims(cell.enter)[1], into)
    flow.contract(node, cell.again, 1, shown)
    for item in (cell.enter, cell.again, *cell.biases):
        gate, unit = flow.split(flow.dims(item)[0], quotient(size(flow.dims(item)[0]), gates) or 1)
        pin(gate, where(node, "gates"))
        flow.tie(unit, hidden)
    if cell.project is not None:
        flow.tie(flow.dims(cell.project)[0], shown)
        flow.contract(node, cell.project, 1, hidden)
    flow.role(node, "in", into)
    flow.role(node, "out", hidden)


def _results(node: fx.Node, flow: Flow, states: list[fx.Node], made: Dims, batch_first: bool) -> Value:
    reason = where(node, "positions of a recurrence")
    place = -2 if len(made) == 2 or batch_first else 0
    pin(made[place], reason)
    batch = [] if len(made) == 2 else [made[0 if batch_first else 1]]
    for state in states:
        dims = flow.dims(state)
        pin(dims[0], where(node, "layers and directions"))
        for left, right in zip(batch, dims[1:-1], strict=True):
            flow.tie(left, right)
    rows = fresh(shape(node.meta["val"][1])[0], where(node, "layers and directions"))
    return [made, *((rows, *flow.dims(state)[1:]) for state in states)]
