"""Slices: sums over everything in the weights that belongs to one index of a group."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.axes.groups import Group, Member
from tersor.axes.select import owners
from tersor.axes.terms import Axis
from tersor.importance.layers import layers, tables
from tersor.program import Program


def by_owner(values: Tensor, owned: Tensor, size: int) -> Tensor:
    """Sums of the values of each owner, shape [size]; positions of nobody (-1) are left out.

    Args:
        values: one per position, shape [d].
        owned: whose each position is, int64 [d].
        size: how many owners there are.

    >>> by_owner(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1, -1, 1]), 2).tolist()
    [0.0, 5.0]
    """
    mine = owned >= 0
    return values.new_zeros(size).index_add_(0, owned[mine].to(values.device), values[mine.to(values.device)])


def sums(values: Tensor, places: Sequence[tuple[int, Tensor]], size: int) -> Tensor:
    """Sums over the slices of one tensor that belong to each index, shape [size].

    An element that lies in two slices of the same index, such as the diagonal of a layer from a residual stream to
    itself, counts once.

    Args:
        values: any shape.
        places: for each dimension that the axis is in, the dimension and whose each of its positions is.
        size: how many indices there are.

    >>> sums(torch.ones(2, 2), [(0, torch.arange(2)), (1, torch.arange(2))], 2).tolist()
    [3.0, 3.0]
    """
    total = values.new_zeros(size)
    for place, (dim, owned) in enumerate(places):
        part = values
        for earlier, other in places[:place]:
            part = part.masked_fill(_both(values, (dim, owned), (earlier, other)), 0)
        rest = [d for d in range(values.dim()) if d != dim]
        total += by_owner(part.sum(rest) if rest else part, owned, size)
    return total


def _both(like: Tensor, first: tuple[int, Tensor], second: tuple[int, Tensor]) -> Tensor:
    """Where an element belongs to the same index by both dimensions."""
    shaped = []
    for dim, owned in (first, second):
        shape = [1] * like.dim()
        shape[dim] = len(owned)
        shaped.append(owned.to(like.device).reshape(shape))
    return (shaped[0] == shaped[1]) & (shaped[0] >= 0)


@dataclass(frozen=True)
class Sides:
    """Which dimensions of weights make axes and which sum over them, as (weight, dimension)."""

    made: frozenset[tuple[str, int]]
    read: frozenset[tuple[str, int]]

    def producers(self, group: Group) -> list[Member]:
        """The members where the group's indices are made."""
        return [member for member in group.members if (member.weight, member.dim) in self.made]

    def consumers(self, group: Group) -> list[Member]:
        """The members where the group's indices are summed over."""
        return [member for member in group.members if (member.weight, member.dim) in self.read]


def sides(program: Program) -> Sides:
    """The sides of all layers of a program; scales and shifts are on neither."""
    found = layers(program).values()
    made = {pair for item in found for pair in item.producing} | tables(program)
    return Sides(frozenset(made), frozenset((item.weight, item.into) for item in found))


def member_sums(
    program: Program, axis: Axis, members: Collection[Member], values: Callable[[str, Tensor], Tensor]
) -> list[Tensor]:
    """For each distinct weight, the sums over the slices of each index.

    Args:
        program: holds the weights.
        axis: whose indices.
        members: the dimensions to look at; weights that share their memory count once.
        values: what to sum, from a weight's name and tensor: a tensor of its shape.
    """
    chosen: dict[object, list[Member]] = {}
    named: dict[object, str] = {}
    for member in members:
        place = _memory(program.weights[member.weight])
        name = named.setdefault(place, member.weight)
        if name == member.weight:
            chosen.setdefault(place, []).append(member)
    return [
        sums(
            values(named[place], program.weights[named[place]]),
            [(member.dim, owners(member.term, axis)) for member in rows],
            int(axis.size),
        )
        for place, rows in chosen.items()
    ]


def _memory(value: Tensor) -> object:
    return (value.data_ptr(), tuple(value.shape), value.stride()) if value.numel() else id(value)


def total(parts: Sequence[Tensor], size: int) -> Tensor:
    """The sum of the parts, zeros where there are none."""
    return (
        torch.stack([part.to("cpu", torch.float64) for part in parts]).sum(0) if parts else torch.zeros(size).double()
    )
