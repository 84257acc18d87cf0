"""Removing and permuting: one operation on weights and literals for any set of axes."""

from __future__ import annotations

from typing import Any

import torch

from tersor.axes.analysis import Axes
from tersor.axes.select import Kept, indices, touched
from tersor.axes.terms import Axis
from tersor.errors import RewriteError
from tersor.program import Program
from tersor.rewrite_arguments import set_argument

_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
"""Whether these are possible depends on strides, which depend on sizes: `reshape` always is."""


def remove(program: Program, axes: Axes, kept: Kept) -> None:
    """Leave only the kept indices, everywhere, in place; `refresh` the program afterwards.

    Weights are replaced by new tensors, the old ones stay as they are.

    Args:
        program: the analysed program or a clone of it.
        axes: its analysis.
        kept: for each axis to cut or reorder, the indices that stay, in their new order.

    Raises:
        RewriteError: an axis is pinned, would lose more than it may, or may not be reordered.
    """
    for axis, stay in kept.items():
        _allow(axis, stay)
    made: dict[int, torch.Tensor] = {}
    for name, dims in axes.weights.items():
        value = program.weights.get(name)
        if isinstance(value, torch.Tensor):
            program.weights[name] = made.setdefault(id(value), narrowed(value, dims, kept))
    nodes = {node.name: node for node in program.nodes}
    for literal in axes.literals:
        node = nodes.get(literal.node)
        if node is not None:
            set_argument(node, literal.argument, literal.value(kept))
    for node in program.nodes:
        if node.target in _VIEWS and isinstance(node.args[1], list | tuple):
            node.target = torch.ops.aten.reshape.default
    program.changed()


def _allow(axis: Axis, stay: torch.Tensor) -> None:
    if axis.pin:
        raise RewriteError(f"axis {axis} may not be cut: {axis.pin}", "cut free groups only")
    if len(stay) < axis.least or len(stay.unique()) < len(stay):
        raise RewriteError(
            f"{len(stay)} indices of axis {axis} were to stay", f"keep {axis.least} different ones or more"
        )
    if axis.ordered and not bool((stay.diff() > 0).all()):
        raise RewriteError(f"the indices of axis {axis} were to change places", "keep them in ascending order")


def narrowed(value: torch.Tensor, dims: Any, kept: Kept) -> torch.Tensor:
    """A tensor without the removed indices of any dimension; itself where it has none."""
    for dim, term in enumerate(dims):
        if touched(term, kept):
            value = value.index_select(dim, indices(term, kept).to(value.device))
    return value.detach()
