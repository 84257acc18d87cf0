"""Constant arguments of a node: given a new value that no other node sees."""

from __future__ import annotations

from torch import Tensor, fx

from tersor.axes.remove import set_argument
from tersor.program import Program
from tersor.rewrite import insert_weight
from tersor.rewrite_values import arguments


def set_constant(program: Program, node: fx.Node, argument: str, value: Tensor, name: str = "") -> None:
    """Let an argument be a new constant; the old tensor stays as it is, and other readers keep it.

    Args:
        name: of the weight, where the argument is no constant yet.
    """
    source = arguments(node)[argument]
    if isinstance(source, fx.Node) and source.op == "get_attr":
        name = str(source.target)
        if len(source.users) == 1 and readers(program, name) == 1:
            program.weights[name] = value
            return
    set_argument(node, argument, insert_weight(program, node, name, value))
    if isinstance(source, fx.Node) and not source.users:
        program.graph.erase_node(source)


def readers(program: Program, name: str) -> int:
    """How many nodes give a weight to the graph."""
    return sum(str(node.target) == name for node in program.graph.find_nodes(op="get_attr"))
