"""The expert axis: from the router through choices and positions to stacked weights, however it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.axes import Axes, Group, analyze, cut, groups
from tersor.capture import load
from tersor.errors import RewriteError
from tersor.program import Program

EXPERTS, WIDTH, HIDDEN, CHOSEN = 5, 6, 4, 2


class Mixture(nn.Module):
    """The best two of five stacked experts."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN))
        self.down = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH))

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        share, place = self.router(x).softmax(-1).topk(CHOSEN, -1)
        return share / share.sum(-1, keepdim=True), place

    def everything(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.einsum("teh,ehc,te->tc", torch.einsum("tc,ech->teh", x, self.up).relu(), self.down, weight)


class Masked(Mixture):
    """One-hot rows, every expert on every token."""

    def forward(self, x: Tensor) -> Tensor:
        share, place = self.choose(x)
        return self.everything(x, (F.one_hot(place, EXPERTS).to(x.dtype) * share[..., None]).sum(1))


class Scattered(Mixture):
    """Shares scattered back to all experts."""

    def forward(self, x: Tensor) -> Tensor:
        share, place = self.choose(x)
        return self.everything(x, torch.zeros(x.shape[0], EXPERTS).scatter_add(1, place, share))


class Gathered(Mixture):
    """Each token fetches its experts' weights."""

    def forward(self, x: Tensor) -> Tensor:
        share, place = self.choose(x)
        inner = (x[:, None, None, :] @ self.up[place]).relu()
        return ((inner @ self.down[place]).squeeze(2) * share[..., None]).sum(1)


class Grouped(Mixture):
    """Tokens sorted by expert, stretches found by counting, as a grouped matrix product does it."""

    def forward(self, x: Tensor) -> Tensor:
        share, place = self.choose(x)
        ids, order = place.reshape(-1).sort()
        rows = x[order // CHOSEN]
        ends = torch.histc(ids.float(), EXPERTS, 0, EXPERTS - 1).cumsum(0)
        expert = (torch.arange(rows.shape[0])[:, None] >= ends[None, :]).sum(1).clamp(max=EXPERTS - 1)
        inner = (rows[:, None, :] @ self.up[expert]).relu()
        made = (inner @ self.down[expert]).squeeze(1) * share.reshape(-1)[order][:, None]
        back = torch.empty_like(order)
        back[order] = torch.arange(rows.shape[0])
        return made[back].view(x.shape[0], CHOSEN, WIDTH).sum(1)


class Limited(Mixture):
    """The best experts of the best groups of experts, as in DeepSeek-V3 (arXiv:2412.19437)."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 12, bias=False)
        self.up = nn.Parameter(torch.randn(12, WIDTH, HIDDEN))
        self.down = nn.Parameter(torch.randn(12, HIDDEN, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x).sigmoid()
        groups = scores.view(-1, 3, 4).topk(2, -1)[0].sum(-1)
        chosen = torch.zeros_like(groups).scatter(1, groups.topk(2, -1)[1], 1.0)
        mask = chosen.unsqueeze(-1).expand(-1, 3, 4).reshape(-1, 12)
        place = scores.masked_fill(~mask.bool(), 0.0).topk(CHOSEN, -1)[1]
        share = scores.gather(1, place)
        inner = (x[:, None, None, :] @ self.up[place]).relu()
        return ((inner @ self.down[place]).squeeze(2) * share[..., None]).sum(1)


WAYS = [Masked, Scattered, Gathered, Grouped]


@dataclass(frozen=True)
class Case:
    program: Program
    axes: Axes
    groups: list[Group]

    @property
    def experts(self) -> Group:
        return next(group for group in self.groups if group.kind == "experts")


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: way.__name__)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    program = load(request.param().eval(), (torch.randn(7, WIDTH),))
    axes = analyze(program)
    return Case(program, axes, groups(program, axes))


def test_router_and_experts_are_one_group(case: Case) -> None:
    group = case.experts
    assert group.free and group.size == EXPERTS and group.least == CHOSEN
    assert {(member.weight, member.dim) for member in group.members} == {("router.weight", 0), ("up", 0), ("down", 0)}


def test_removed_experts_are_as_if_never_chosen(case: Case) -> None:
    hidden = next(group for group in case.groups if group.size == HIDDEN)
    program = case.program.clone()
    cut(program, case.axes, {case.experts.axis: torch.tensor([0, 2, 4]), hidden.axis: torch.tensor([3, 1])})
    assert program.weights["up"].shape == (3, WIDTH, 2)


def test_fewer_experts_than_are_chosen_are_refused(case: Case) -> None:
    with pytest.raises(RewriteError, match="keep 2 different"):
        cut(case.program.clone(), case.axes, {case.experts.axis: torch.tensor([1])})


def test_only_sorted_tokens_need_the_order_of_experts(case: Case) -> None:
    kept = {case.experts.axis: torch.tensor([4, 0, 2])}
    if case.experts.axis.ordered:
        with pytest.raises(RewriteError, match="ascending"):
            cut(case.program.clone(), case.axes, kept)
    else:
        cut(case.program.clone(), case.axes, kept)


class Compared(nn.Module):
    """Positions used as plain numbers."""

    def __init__(self, use: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.router, self.use = nn.Linear(WIDTH, EXPERTS), use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.router(x).argmax(-1))


USES: dict[str, Callable[[Tensor], Tensor]] = {
    "returned": lambda place: place,
    "counted with": lambda place: place + 1,
    "compared with a constant": lambda place: (place == 3).float(),
    "compared by size": lambda place: (place[:, None] > torch.arange(EXPERTS)).float().sum(1),
    "one-hot over more": lambda place: F.one_hot(place, EXPERTS + 1).sum(0),
}


@pytest.mark.parametrize("use", USES)
def test_positions_used_as_numbers_pin_their_axis(use: str) -> None:
    program = load(Compared(USES[use]).eval(), (torch.randn(7, WIDTH),))
    group = next(g for g in groups(program, analyze(program)) if g.size == EXPERTS)
    assert "positions that become values" in group.pin


def test_experts_in_groups_are_cut_as_groups_and_within_each() -> None:
    torch.manual_seed(0)
    program = load(Limited().eval(), (torch.randn(7, WIDTH),))
    axes = analyze(program)
    found = {group.size: group for group in groups(program, axes) if group.kind == "experts"}
    assert sorted(found) == [3, 4] and all(group.free and group.least == 2 for group in found.values())
    cut(program, axes, {found[3].axis: torch.tensor([0, 2]), found[4].axis: torch.tensor([1, 2, 3])})
    assert program.weights["up"].shape == (6, WIDTH, HIDDEN)
