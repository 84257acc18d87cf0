"""What is said of a mask before it runs: its value where it is constant, and whether it is a diagonal band."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tersor.passes._attention_layout import CASTS, is_copy, sizes_of
from tersor.passes._attention_scores import number
from tersor.passes._views import permutation
from tersor.program import Program
from tersor.rewrite_values import arguments, fake, key, positional, scalar, tensor

LARGEST = 1 << 24
"""Constants of more elements are not evaluated."""

OUTSIDE = -99
"""Stands for an axis that a tensor lacks, or has with size 1."""


@dataclass(frozen=True)
class Band:
    """True where ``low <= column - row <= high``."""

    low: float = -math.inf
    high: float = math.inf

    def __and__(self, other: Band) -> Band:
        """Where both are true."""
        return Band(max(self.low, other.low), min(self.high, other.high))

    def __invert__(self) -> Band | None:
        """Where it is not, if that is one band."""
        if self.low == -math.inf and self.high < math.inf:
            return Band(low=self.high + 1)
        if self.high == math.inf and self.low > -math.inf:
            return Band(high=self.low - 1)
        return None


CAUSAL = Band(high=0)


def constant(program: Program, node: Any) -> torch.Tensor | None:
    """The value of what depends on weights only."""
    weight = program.weight(node)
    if weight is not None:
        return weight
    if not isinstance(node, fx.Node) or node.op != "call_function" or not node.all_input_nodes:
        return None
    found = tensor(node)
    if found is None or any(not isinstance(size, int) for size in sizes_of(node)) or found.numel() > LARGEST:
        return None
    values = {source: constant(program, source) for source in node.all_input_nodes}
    if any(value is None for value in values.values()):
        return None
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: values[source])
    with torch.no_grad():
        made = node.target(*args, **kwargs)  # type: ignore[operator]
    return made if isinstance(made, torch.Tensor) else None


def band(program: Program, node: Any, row: int, column: int) -> Band | None:
    """The band of entries that are true, or not zero; ``row`` and ``column`` count axes from the back.

    None where the node is no band, or something about it is not known; other axes must be of size 1.
    """
    value = constant(program, node)
    if value is not None:
        return _band_of(value, row, column)
    if not isinstance(node, fx.Node) or tensor(node) is None:
        return None
    if number(program, node) is not None:
        return Band() if number(program, node) else None
    moved = _before_view(node, row, column)
    if moved is not None:
        return band(program, *moved)
    name = key(node)
    if name in ("tril", "triu"):
        inner, diagonal = band(program, positional(node)[0], row, column), int(arguments(node)["diagonal"])
        if inner is None or (row, column) != (-2, -1):
            return None
        return inner & (Band(high=diagonal) if name == "tril" else Band(low=diagonal))
    return _logic(program, node, name, row, column)


def _logic(program: Program, node: fx.Node, name: str, row: int, column: int) -> Band | None:
    if name in ("logical_not", "bitwise_not"):
        inner = band(program, positional(node)[0], row, column)
        return ~inner if inner is not None else None
    if name in ("eq", "ne") and scalar(program, positional(node)[1]) == 0:
        inner = band(program, positional(node)[0], row, column)
        return inner if name == "ne" or inner is None else ~inner
    if name in ("logical_and", "bitwise_and", "mul"):
        both = [band(program, item, row, column) for item in positional(node)[:2]]
        return both[0] & both[1] if both[0] is not None and both[1] is not None else None
    return _compared(program, node, name, row, column) if name in ("ge", "gt", "le", "lt") else None


def _band_of(value: torch.Tensor, row: int, column: int) -> Band | None:
    if value.dim() < max(-row, -column) or value.numel() != value.shape[row] * value.shape[column]:
        return None
    table = value.movedim((row, column), (-2, -1)).reshape(value.shape[row], value.shape[column]).bool()
    if table.all():
        return Band()
    if torch.equal(table, torch.ones_like(table).tril()):
        return CAUSAL
    return ~CAUSAL if torch.equal(table, torch.ones_like(table).triu(1)) else None


def _before_view(node: fx.Node, row: int, column: int) -> tuple[fx.Node, int, int] | None:
    """The input of a view with its row and column axes."""
    name, order = key(node), permutation(node)
    rank = fake(node).dim()
    if order is not None:
        first, second = (order[axis % rank] - rank if -axis <= rank else OUTSIDE for axis in (row, column))
        return node.args[0], first, second  # type: ignore[return-value]
    if name in CASTS or is_copy(node) or name == "expand":
        return node.args[0], row, column  # type: ignore[return-value]
    if name == "slice" and (arguments(node)["start"] or 0) == 0 and arguments(node)["step"] == 1:
        return node.args[0], row, column  # type: ignore[return-value]
    if name in ("reshape", "view", "unsqueeze", "squeeze"):
        source = node.args[0]
        before, after = sizes_of(source), sizes_of(node)
        wide = [axis for axis, size in enumerate(before) if size != 1]
        kept = [axis for axis, size in enumerate(after) if size != 1]
        if [before[axis] for axis in wide] != [after[axis] for axis in kept]:
            return None
        places = dict(zip(kept, wide, strict=True))
        found = [places.get(axis % rank) if -axis <= rank else None for axis in (row, column)]
        first, second = (OUTSIDE if place is None else place - len(before) for place in found)
        return source, first, second  # type: ignore[return-value]
    return None


def _compared(program: Program, node: fx.Node, name: str, row: int, column: int) -> Band | None:
    """``row + a >= column + b`` and the like."""
    first, second = (_position(program, item, row, column) for item in positional(node)[:2])
    if first is None or second is None or {first[0], second[0]} != {"row", "column"}:
        return None
    # column - row against the difference of the offsets
    swapped = first[0] == "row"
    limit = first[1] - second[1] if swapped else second[1] - first[1]
    less = (name in ("ge", "gt")) == swapped
    strict = name in ("gt", "lt")
    return Band(high=limit - strict) if less else Band(low=limit + strict)


def _position(program: Program, node: Any, row: int, column: int) -> tuple[str, float] | None:
    """("row" or "column", offset) of a tensor that counts along that axis."""
    if not isinstance(node, fx.Node) or tensor(node) is None:
        return None
    if key(node) == "arange":
        given = arguments(node)
        if fake(node).dim() != 1 or given.get("step", 1) != 1 or given.get("start", 0) != 0:
            return None
        return ("column", 0.0) if column == -1 else ("row", 0.0) if row == -1 else None
    if key(node) == "add" and scalar(program, positional(node)[1]) is not None:
        inner = _position(program, positional(node)[0], row, column)
        return None if inner is None else (inner[0], inner[1] + float(scalar(program, positional(node)[1]) or 0))
    value = program.weight(node)
    if value is not None:
        return _counted(value, row, column)
    moved = _before_view(node, row, column)
    return None if moved is None else _position(program, *moved)


def _counted(value: torch.Tensor, row: int, column: int) -> tuple[str, float] | None:
    counts = value.numel() > 1 and torch.equal(value.reshape(-1), torch.arange(value.numel()).to(value))
    for name, axis in (("column", column), ("row", row)):
        if counts and -axis <= value.dim() and value.shape[axis] == value.numel():
            return name, 0.0
    return None
