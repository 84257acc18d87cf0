"""Reshapes of tensors whose leading sizes may differ from call to call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from tersor.rewrite import insert_call
from tersor.rewrite_values import fake, known

aten = torch.ops.aten


def size(before: fx.Node, value: fx.Node, dim: int) -> Any:
    """One size of a value: a number, or a node that reads it."""
    found = known(fake(value).shape[dim])
    return insert_call(before, aten.sym_size.int, [value, dim]) if found is None else found


def sizes(before: fx.Node, value: fx.Node, count: int) -> list[Any]:
    """The first sizes of a value."""
    return [size(before, value, dim) for dim in range(count)]


def reshape(before: fx.Node, value: fx.Node, wanted: Sequence[Any]) -> fx.Node:
    """A reshape to numbers and nodes; a single node is written as -1, which is the canonical form."""
    unknown = [place for place, item in enumerate(wanted) if isinstance(item, fx.Node)]
    given = list(wanted)
    if len(unknown) == 1 and -1 not in given:
        given[unknown[0]] = -1
    return insert_call(before, aten.reshape.default, [value, given])
