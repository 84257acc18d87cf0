"""The analysis: every dimension of every tensor of a program as a term over atomic axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tersor.axes import (
    attention,
    convolution,
    elementwise,
    geometry,
    indexing,
    norms,
    pieces,
    places,
    products,
    recurrent,
    routing,
    spectral,
    views,
)
from tersor.axes.flow import (
    RULES,
    Contraction,
    Dims,
    Flow,
    Literal,
    Meaning,
    Role,
    Span,
    Value,
    fresh,
    fresh_value,
    pin_value,
    shape,
    where,
)
from tersor.axes.meaning import read, unread
from tersor.axes.terms import Misaligned, same, size
from tersor.program import Program
from tersor.rewrite_values import key

FAMILIES = (
    attention, convolution, elementwise, geometry, indexing, norms, pieces, places, products, recurrent, routing,
    spectral, views,
)  # fmt: skip
"""The modules whose import registers the flow rules."""


@dataclass(frozen=True)
class Axes:
    """What is known of a program's dimensions.

    Attributes:
        values: dimensions of each node's result, by node name.
        weights: dimensions of each weight, by its name.
        literals: arguments that state sizes.
        contractions: where dimensions are summed over.
        spans: where formulas run over whole dimensions.
        roles: what dimensions are to nodes.
        meanings: what integers are to axes, by node name, see `results`.
        unknown: nodes without a rule, and why their dimensions are pinned.
    """

    values: dict[str, Value]
    weights: dict[str, Dims]
    literals: tuple[Literal, ...]
    contractions: tuple[Contraction, ...]
    spans: tuple[Span, ...]
    roles: tuple[Role, ...]
    meanings: dict[str, Meaning]
    unknown: dict[str, str]


def analyze(program: Program) -> Axes:
    """Follow every dimension through the graph; near linear in its edges.

    Operators without a rule, opaque nodes and places where boundaries cross pin what they touch, with the reason.
    """
    flow = Flow(program)
    storages: dict[object, Dims] = {}
    for node in program.nodes:
        if node.op == "output":
            unread(node, flow)
            for source in node.all_input_nodes:
                pin_value(flow.values.get(source.name), "graph output")
        elif node.op == "placeholder":
            flow.values[node.name] = fresh_value(node.meta["val"], f"graph input {node.name}")
        elif node.op == "get_attr":
            flow.values[node.name] = _weight(flow, node, storages)
        else:
            flow.values[node.name] = _call(flow, node)
    return Axes(
        flow.values, flow.weights, tuple(flow.literals), tuple(flow.contractions), tuple(flow.spans),
        tuple(flow.roles), flow.meanings, flow.unknown,
    )  # fmt: skip


def _weight(flow: Flow, node: fx.Node, storages: dict[object, Dims]) -> Value:
    """Weights that lie in the same memory are the same thing, whatever their names."""
    value = flow.program.weight(node)
    if value is None:
        return None
    name = str(node.target)
    if name not in flow.weights:
        place: object = (value.data_ptr(), tuple(value.shape), value.stride()) if value.numel() else name
        flow.weights[name] = storages.setdefault(place, tuple(fresh(item) for item in value.shape))
    return flow.weights[name]


def _call(flow: Flow, node: fx.Node) -> Value:
    name = key(node)
    if not _is_tensor(node.meta.get("val")):
        unread(node, flow)
        return None
    apply = RULES.get(name) or (elementwise.elementwise if elementwise.is_elementwise(node) else None)
    if apply is None:
        flow.unknown[node.name] = f"no axis rule for {name or node.target}"
        unread(node, flow)
        return flow.fixed(node, where(node, f"no axis rule for {name or node.target}"))
    flow.here = node.name
    try:
        made = apply(node, flow)
        read(node, flow, name)
    except Misaligned as error:
        return _refused(flow, node, f"dimensions that do not line up at {node.name} ({str(error).splitlines()[0]})")
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        return _refused(flow, node, f"the axis rule for {name} fails at {node.name} ({type(error).__name__}: {error})")
    if not _fits(made, node.meta["val"]):
        return _refused(flow, node, f"the axis rule for {name} does not cover {node.name}")
    return made


def _refused(flow: Flow, node: fx.Node, reason: str) -> Value:
    flow.unknown[node.name] = reason
    unread(node, flow)
    return flow.fixed(node, reason)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (
        isinstance(value, list | tuple) and any(isinstance(item, torch.Tensor) for item in value)
    )


def _fits(made: Value, value: Any) -> bool:
    """Whether the sizes that a rule gave are those of the result."""
    if isinstance(value, torch.Tensor):
        wanted = shape(value)
        return (
            isinstance(made, tuple)
            and len(made) == len(wanted)
            and all(same(size(term), item) for term, item in zip(made, wanted, strict=True))
        )
    if isinstance(value, list | tuple) and isinstance(made, list) and len(made) == len(value):
        return all(_fits(left, right) for left, right in zip(made, value, strict=True) if right is not None)
    return value is None
