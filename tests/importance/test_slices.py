"""Sums over slices equal slicing by hand."""

from __future__ import annotations

import torch
from torch import nn

from tersor.axes.select import owners
from tersor.importance.slices import by_owner, member_sums, sides, sums
from tests.importance.models import Attention, drawn, standard


def test_an_element_in_two_slices_of_an_index_counts_once() -> None:
    values = drawn(4, 6, 2).abs()
    owned = [(0, torch.tensor([0, 1, -1, 1])), (1, torch.tensor([1, 0, 0, -1, 1, 2]))]
    for index in range(3):
        member = torch.zeros(4, 6, 2, dtype=torch.bool)
        member[owned[0][1] == index] = True
        member[:, owned[1][1] == index] = True
        torch.testing.assert_close(sums(values, owned, 3)[index], values[member].sum())


def test_positions_of_nobody_are_left_out() -> None:
    assert by_owner(torch.tensor([1.0, 2.0]), torch.tensor([-1, -1]), 3).tolist() == [0, 0, 0]


class Tied(nn.Module):
    """Two names for one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 3)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.a(x) * self.b(x))


def test_tied_weights_count_once() -> None:
    case = standard(Tied, 5)
    group = case.group("out.weight", 1)
    parts = member_sums(case.program, group.axis, group.members, lambda _, weight: weight.abs())
    assert len(parts) == 4, "one weight, two biases, one consumer"


def test_sides_of_heads_and_their_inner_dimensions() -> None:
    case = standard(Attention, 7, 5)
    (heads,) = [group for group in case.free if group.kind == "heads"]
    found = sides(case.program)
    made = {(member.weight, member.dim) for member in found.producers(heads)}
    assert made == {(f"{name}.{part}", 0) for name in ("query", "key", "value") for part in ("weight", "bias")}
    assert [(member.weight, member.dim) for member in found.consumers(heads)] == [("out.weight", 1)]
    assert owners(found.consumers(heads)[0].term, heads.axis).tolist() == [0] * 4 + [1] * 4 + [2] * 4
