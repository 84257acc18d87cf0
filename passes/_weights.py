"""Weights as nodes: one node per weight, who reads it, what it costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from tersor.program import Program


def share_weight_nodes(program: Program) -> int:
    """Let each weight be read by one node, at the graph's start; returns the number of nodes dropped."""
    first: dict[str, fx.Node] = {}
    dropped = 0
    for node in list(program.graph.find_nodes(op="get_attr")):
        kept = first.setdefault(str(node.target), node)
        if kept is not node:
            node.replace_all_uses_with(kept)
            program.graph.erase_node(node)
            dropped += 1
    start = next(iter(program.graph.nodes))
    if dropped:
        for node in first.values():
            if node is not start:
                start.prepend(node)
    return dropped


def shared_with(program: Program, weight: Any, reader: fx.Node) -> fx.Node | None:
    """Another node that reads a weight too, or None; expects `share_weight_nodes` to have run.

    Vectors do not count: a second one costs next to nothing.
    """
    stored = program.weight(weight)
    if stored is None or stored.dim() < 2:
        return None
    return next((user for user in weight.users if user is not reader), None)


def size_in_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a dense tensor of this shape and dtype."""
    return tensor.numel() * tensor.element_size()
