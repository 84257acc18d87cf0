"""Shapes of values that a translation or a clean-up made on its way and gave none."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import onnx_ir as ir

from tersor.export.edit import Dim, constant_ints, dims_of, int_attribute, ints_attribute, is_op

Dims = tuple[Dim, ...]

_AS_FIRST = ("Cast", "Cos", "Identity", "Neg", "Not", "Sin")
_BROADCAST = ("Add", "And", "Div", "Max", "Min", "Mul", "Or", "Sub", "Where")


def inferred_dims(value: ir.Value | None) -> Dims | None:
    """The shape of a value, or what follows from those of what made it; None where not even the rank is known."""
    known, node = dims_of(value), None if value is None else value.producer()
    if known is not None or node is None:
        return known
    parts = [inferred_dims(item) for item in node.inputs]
    first = parts[0] if parts else None
    if first is None:
        return None
    if is_op(node, *_AS_FIRST):
        return first
    if is_op(node, *_BROADCAST):
        return _broadcast(parts)
    if is_op(node, "NonZero", "Shape"):
        return (len(first), None) if node.op_type == "NonZero" else (len(first),)
    if is_op(node, "Expand"):
        return _expanded(first, constant_ints(node.inputs[1]), parts[1])
    if is_op(node, "Slice"):
        return _sliced(first, [constant_ints(item) for item in node.inputs[1:]])
    if is_op(node, "Transpose"):
        order = ints_attribute(node, "perm") or range(len(first))[::-1]
        return tuple(first[axis] for axis in order)
    if is_op(node, "Unsqueeze"):
        return _unsqueezed(first, constant_ints(node.inputs[1]))
    if is_op(node, "ReduceMax"):
        return _reduced(first, constant_ints(node.inputs[1]) if len(node.inputs) > 1 else None, node)
    return _joined(parts, int_attribute(node, "axis", 0)) if is_op(node, "Concat") else None


def _broadcast(parts: Sequence[Dims | None]) -> Dims | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return tuple(map(_common, zip_longest(*(part[::-1] for part in known), fillvalue=1)))[::-1]


def _expanded(dims: Dims, sizes: list[int] | None, length: Dims | None) -> Dims | None:
    if sizes is not None:
        return _broadcast((dims, tuple(sizes)))
    return (None,) * max(len(dims), length[0]) if length and isinstance(length[0], int) else None


def _sliced(dims: Dims, constants: list[list[int] | None]) -> Dims:
    if len(constants) < 3 or None in constants:
        return (None,) * len(dims)
    made: list[Dim] = list(dims)
    begins, ends, axes, steps = [list(found or ()) for found in (*constants, None)][:4]
    for begin, end, axis, step in zip(begins, ends, axes, steps or [1] * len(axes), strict=True):
        size = dims[axis]
        made[axis] = len(range(*slice(begin, end, step).indices(size))) if isinstance(size, int) else None
    return tuple(made)


def _common(sizes: Sequence[Dim]) -> Dim:
    """The size that several broadcast to; an unknown one may be 1, and where another is not, that counts."""
    large = {size for size in sizes if size != 1}
    return 1 if not large else large.pop() if len(large) == 1 else next((s for s in large if isinstance(s, int)), None)


def _reduced(dims: Dims, axes: list[int] | None, node: ir.Node) -> Dims | None:
    if axes is None or not int_attribute(node, "keepdims", 1):
        return None
    along = {axis % len(dims) for axis in axes}
    return tuple(1 if axis in along else size for axis, size in enumerate(dims))


def _unsqueezed(dims: Dims, axes: list[int] | None) -> Dims | None:
    if axes is None:
        return None
    rank, rest = len(dims) + len(axes), iter(dims)
    new = {axis % rank for axis in axes}
    return tuple(1 if axis in new else next(rest) for axis in range(rank))


def _joined(parts: Sequence[Dims | None], axis: int) -> Dims | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    sizes = [part[axis] for part in known]
    made = list(known[0])
    made[axis] = sum(size for size in sizes if isinstance(size, int)) if all(type(s) is int for s in sizes) else None
    return tuple(made)
