"""Rules for transposes between reshapes: axes that are taken apart behind a transpose are so before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tersor.passes._views import permutation
from tersor.rewrite import AnyRule, Match, Plan, node_rule
from tersor.rewrite_values import argument, key, known, positional, same_size, tensor

aten = torch.ops.aten


@node_rule("reshape")
def divided_before_transpose(match: Match) -> Plan:
    """Axes that a reshape makes, a transpose moves and another reshape divides are divided first: one reshape less.

    torch.onnx.export transposes the keys of attention so, with batch and heads joined to three axes.
    """
    moved = argument(match.root, "self")
    order, out, between = permutation(moved), tensor(match.root), tensor(moved)
    if order is None or out is None or between is None:
        return None
    joined = positional(moved)[0]
    if key(joined) != "reshape" or len(joined.users) != 1 or len(moved.users) != 1:
        return None
    blocks = joined_axes(out.shape, between.shape)
    if blocks is None:
        return None
    source, given = argument(joined, "self"), positional(match.root)[1]
    before = [axis for place in sorted(range(len(order)), key=order.__getitem__) for axis in blocks[place]]
    sizes, axes = [given[axis] for axis in before], [before.index(axis) for axis in range(len(before))]
    return lambda: match.call(aten.permute.default, match.call(aten.reshape.default, source, sizes), axes)


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


RULES: tuple[AnyRule, ...] = (divided_before_transpose,)
