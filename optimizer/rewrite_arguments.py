"""Arguments of a node: given a new value, a constant one such that no other node sees it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from tersor.program import Program
from tersor.rewrite import insert_weight
from tersor.rewrite_values import arguments


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Change one argument by its schema name, if it differs; entries of a list that are None stay."""
    given = arguments(node).get(name)
    if isinstance(value, list) and isinstance(given, list | tuple):
        value = [old if new is None else new for old, new in zip(given, value, strict=True)]
    if given == value:
        return
    names = [item.name for item in node.target._schema.arguments]  # type: ignore[union-attr]
    place = names.index(name)
    if place < len(node.args):
        node.update_arg(place, value)
    else:
        node.update_kwarg(name, value)


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
