"""What integer tensors hold when they hold sizes: numbers and dynamic dimensions, followed through shape arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir
import torch

from tersor.export.edit import Dim, constant_ints, dims_of, int_attribute, is_op

_END = 2**62


@dataclass(frozen=True)
class Sizes:
    """The items of an int64 tensor of rank 0 or 1, each a number or the expression of a dynamic size."""

    items: tuple[int | str, ...]
    scalar: bool

    @property
    def numbers(self) -> list[int] | None:
        """The items where all are numbers."""
        return [item for item in self.items if isinstance(item, int)] if not self._dynamic else None

    @property
    def _dynamic(self) -> bool:
        return any(isinstance(item, str) for item in self.items)


@dataclass
class SizeTable:
    """Looks up `Sizes` of values, each once."""

    _found: dict[ir.Value, Sizes | None] = field(default_factory=dict)

    def of(self, value: ir.Value | None) -> Sizes | None:
        """What a value holds; None where it is not all known."""
        if value is None:
            return None
        if value not in self._found:
            self._found[value] = None
            self._found[value] = self._compute(value)
        return self._found[value]

    def _compute(self, value: ir.Value) -> Sizes | None:
        if value.const_value is not None:
            numbers = constant_ints(value)
            rank = len(value.const_value.shape)
            return None if numbers is None or rank > 1 else Sizes(tuple(numbers), rank == 0)
        node = value.producer()
        if node is None or node.domain:
            return None
        return _traced(node, value) or self._operator(node)

    def _operator(self, node: ir.Node) -> Sizes | None:
        if node.op_type == "Shape":
            return _shape(node)
        if node.op_type == "Concat":
            return self._concat(node)
        known = self.of(node.inputs[0]) if node.inputs else None
        if known is None:
            return None
        if is_op(node, "Identity"):
            return known
        if is_op(node, "Cast"):
            return known if int_attribute(node, "to", 0) == ir.DataType.INT64 else None
        if is_op(node, "Squeeze") and len(known.items) == 1:
            return Sizes(known.items, True)
        if is_op(node, "Unsqueeze") and known.scalar:
            return Sizes(known.items, False)
        if is_op(node, "Reshape"):
            target = constant_ints(node.inputs[1])
            return Sizes(known.items, not target) if target is not None and len(target) <= 1 else None
        if is_op(node, "Gather"):
            return self._gather(node, known)
        return _slice(node, known) if is_op(node, "Slice") else None

    def _concat(self, node: ir.Node) -> Sizes | None:
        parts = [self.of(value) for value in node.inputs]
        if any(part is None or part.scalar for part in parts):
            return None
        return Sizes(tuple(item for part in parts if part for item in part.items), False)

    def _gather(self, node: ir.Node, known: Sizes) -> Sizes | None:
        index = self.of(node.inputs[1])
        numbers = None if index is None else index.numbers
        if known.scalar or index is None or numbers is None or any(abs(n) > len(known.items) for n in numbers):
            return None
        return Sizes(tuple(known.items[n] for n in numbers), index.scalar)


def _traced(node: ir.Node, value: ir.Value) -> Sizes | None:
    """A size that torch.export computed symbolically: the exporter keeps its node and the node's name."""
    made_from = node.meta.get("node")
    size = getattr(made_from, "meta", {}).get("val") if getattr(made_from, "name", None) == value.name else None
    if isinstance(size, torch.SymInt):
        return Sizes((str(size.node),), True)
    return Sizes((size,), True) if isinstance(size, int) and not isinstance(size, bool) else None


def _shape(node: ir.Node) -> Sizes | None:
    dims: tuple[Dim, ...] | None = dims_of(node.inputs[0])
    if dims is None:
        return None
    chosen = dims[int_attribute(node, "start", 0) : int_attribute(node, "end", _END)]
    known = tuple(item for item in chosen if item is not None)
    return Sizes(known, False) if len(known) == len(chosen) else None


def _slice(node: ir.Node, known: Sizes) -> Sizes | None:
    bounds = [constant_ints(value) for value in node.inputs[1:]]
    if known.scalar or any(bound is None or len(bound) != 1 for bound in bounds):
        return None
    start, end, axis, step = [bound[0] for bound in bounds if bound] + [0, 1][len(bounds) - 2 :]
    return Sizes(known.items[start : None if end > _END else end : step], False) if axis in (0, -1) else None
