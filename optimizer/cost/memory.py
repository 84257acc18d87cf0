"""How much memory a run needs at its busiest moment."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from tersor.cost.kinds import kind
from tersor.cost.precision import element_types, size
from tersor.cost.shapes import hints


def peak_bytes(graph: fx.Graph, precision: str = "", factor: float = 1.0) -> tuple[float, float]:
    """Bytes of the weights, and of the activations that are alive together at the busiest moment.

    Args:
        graph: of ATen operators with ``meta["val"]``; its order is the order of execution.
        precision: see `tersor.cost.precision.PRECISIONS`.
        factor: how many times the example batch is run at.
    """
    types = element_types(graph, precision)
    amounts = {node: _elements(node.meta.get("val")) * size(types.get(node, "float32")) for node in graph.nodes}
    weights = sum(amounts[node] for node in graph.nodes if node.op == "get_attr")
    ends: dict[fx.Node, list[fx.Node]] = {}
    for node, last in _last_readers(graph).items():
        ends.setdefault(last, []).append(node)
    alive = most = 0.0
    for node in graph.nodes:
        alive += amounts[node] if _owns(node) else 0.0
        most = max(most, alive)
        alive -= sum(amounts[done] for done in ends.get(node, ()))
    return weights, most * factor


def _last_readers(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """For each node that owns memory the last one that reads it, through views too."""
    owners: dict[fx.Node, fx.Node] = {}
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            last[owners[source]] = node
        shows = not _owns(node) and node.op == "call_function" and bool(node.all_input_nodes)
        owners[node] = owners[node.all_input_nodes[0]] if shows else node
    return {node: reader for node, reader in last.items() if _owns(node)}


def _owns(node: fx.Node) -> bool:
    return node.op == "placeholder" or bool(kind(node))


def _elements(value: Any) -> float:
    if isinstance(value, list | tuple):
        return sum(_elements(item) for item in value)
    sizes = hints(value.shape) if isinstance(value, torch.Tensor) else None
    return float(math.prod(sizes)) if sizes is not None else 0.0
