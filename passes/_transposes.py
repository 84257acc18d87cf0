"""Rules for transposes between reshapes: axes that are joined, moved as one, and taken apart again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tersor.passes._views import permutation
from tersor.rewrite import AnyRule, Match, Plan, node_rule
from tersor.rewrite_values import argument, key, known, positional, same_shape, same_size, tensor

aten = torch.ops.aten


@node_rule("reshape")
def transposed_apart(match: Match) -> Plan:
    """Axes joined by a reshape, transposed, and taken apart by another are transposed as they were.

    torch.onnx.export transposes the keys of attention so, with batch and heads joined to three axes.
    """
    moved = argument(match.root, "self")
    order = permutation(moved)
    joined = positional(moved)[0] if order is not None and len(moved.users) == 1 else None
    x, out = tensor(argument(joined, "self")) if key(joined) == "reshape" else None, tensor(match.root)
    between = tensor(joined)
    if x is None or out is None or between is None or order is None or len(joined.users) != 1:
        return None
    blocks = joined_axes(x.shape, between.shape)
    if blocks is None:
        return None
    axes = [axis for place in order for axis in blocks[place]]
    if not same_shape([x.shape[axis] for axis in axes], out.shape):
        return None
    source = argument(joined, "self")
    return lambda: match.call(aten.permute.default, source, axes) if axes != sorted(axes) else source


def joined_axes(before: Sequence[Any], after: Sequence[Any]) -> list[list[int]] | None:
    """For each axis after a reshape, those before that it joins; None where one is divided.

    >>> joined_axes((2, 4, 17, 16), (8, 17, 16)), joined_axes((8, 17), (2, 4, 17))
    ([[0, 1], [2], [3]], None)
    """
    blocks: list[list[int]] = []
    axis = 0
    for size in after:
        block: list[int] = []
        product: Any = 1
        while axis < len(before) and not (same_size(product, size) and (block or known(before[axis]) != 1)):
            product = product * before[axis]
            block.append(axis)
            axis += 1
        if not same_size(product, size):
            return None
        blocks.append(block)
    left = list(range(axis, len(before)))
    if not blocks or any(known(before[extra]) != 1 for extra in left):
        return None
    blocks[-1] += left
    return blocks


RULES: tuple[AnyRule, ...] = (transposed_apart,)
