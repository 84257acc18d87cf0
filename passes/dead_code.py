"""`DeadCode`: drop nodes and weights that no output needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tersor.context import Context
from tersor.program import Program
from tersor.rewrite import is_effect
from tersor.rewrite_values import ASSERTIONS, key


@dataclass(frozen=True)
class DeadCode:
    """Drop nodes whose results nobody reads, checks of dtypes and sizes that capture has made, and unread weights.

    Inputs stay: they are part of the interface.
    """

    exact: ClassVar[bool] = True

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        for node in reversed(list(program.graph.nodes)):
            if node.users or node.op not in ("call_function", "get_attr"):
                continue
            if is_effect(node):
                context.skip(node, "it writes into its input")
                continue
            detail = "check dropped" if key(node) in ASSERTIONS else "result is not used"
            if context.take(node, detail):
                program.graph.erase_node(node)
        program.prune_weights()
        program.changed()
