"""Orders of columns: never worse, exact, and near the best there is."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tersor.axes import analyze, groups, remove
from tersor.capture import load
from tersor.errors import UsageError
from tersor.refresh import refresh
from tersor.sparse.masks import magnitude
from tersor.sparse.pattern import Pattern
from tersor.sparse.permute import kept, search

TWO_FOUR = Pattern(2, 4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([TWO_FOUR, Pattern(1, 2), Pattern(4, 8), Pattern(3, 4)]), st.booleans())
def test_it_is_never_worse_and_says_what_it_keeps(seed: int, pattern: Pattern, equal: bool) -> None:
    weight = normal(5, 16, seed=seed)
    weight = weight.sign() if equal else weight
    found = search([weight], pattern, kicks=2, seed=seed)
    assert torch.equal(found.order.sort().values, torch.arange(16))
    assert found.after >= found.before
    assert found.before == pytest.approx(float((weight * magnitude(weight, pattern)).abs().double().sum()))
    assert found.after == pytest.approx(kept(weight[:, found.order], pattern))
    assert found.total == pytest.approx(float(weight.abs().double().sum()))


def test_it_finds_the_best_order_of_eight() -> None:
    right = 0
    for seed in range(10):
        weight = normal(6, 8, seed=seed)
        most = 0.0
        for first in itertools.combinations(range(1, 8), 3):
            own = [0, *first]
            most = max(most, kept(weight[:, own + [i for i in range(8) if i not in own]], TWO_FOUR))
        found = search([weight], TWO_FOUR, seed=seed)
        assert found.after <= most + 1e-5
        right += found.after == pytest.approx(most)
    assert right >= 8


def test_strong_columns_that_share_blocks_are_spread() -> None:
    weight = normal(16, 32).sign()
    weight[:, 16:] *= 0.01
    found = search([weight], TWO_FOUR)
    assert found.before < 0.52 * found.total
    assert found.after == pytest.approx(16 * 16)


def test_all_weights_count_and_rows_may_be_drawn() -> None:
    one, other = normal(8, 16), 10 * normal(8, 16, seed=1)
    both = search([one, other], TWO_FOUR)
    assert both.after == pytest.approx(kept(torch.cat([one, other])[:, both.order], TWO_FOUR))
    alone = search([other], TWO_FOUR)
    assert kept(other[:, alone.order], TWO_FOUR) >= kept(other[:, both.order], TWO_FOUR) - 1e-4
    some = search([one, other], TWO_FOUR, work=16**2 * 8 * 4)
    assert some.after >= some.before


def test_the_same_seed_gives_the_same_order() -> None:
    weight = normal(16, 64)
    one, other = search([weight], TWO_FOUR, seed=3), search([weight], TWO_FOUR, seed=3)
    assert torch.equal(one.order, other.order) and one.after == other.after
    assert search([weight], TWO_FOUR, kicks=0).after <= search([weight], TWO_FOUR, kicks=30).after


def test_no_work_is_the_identity() -> None:
    found = search([normal(4, 16)], TWO_FOUR, work=0)
    assert torch.equal(found.order, torch.arange(16)) and found.swaps == 0


@pytest.mark.parametrize("labels", [torch.arange(32) // 8, torch.arange(32) % 2, torch.arange(32) // 6])
def test_columns_stay_among_those_of_their_label(labels: Tensor) -> None:
    weight = normal(8, 32)
    found = search([weight], TWO_FOUR, within=labels)
    assert torch.equal(labels[found.order], labels)
    assert found.before < found.after <= search([weight], TWO_FOUR, kicks=60).after + 0.5


def test_labels_of_one_block_each_leave_everything() -> None:
    found = search([normal(8, 32)], TWO_FOUR, within=torch.arange(32) // 4)
    assert torch.equal(found.order, torch.arange(32))


def test_a_program_with_the_order_is_the_same() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 5)).double().eval()
    x = torch.randn(4, 6, dtype=torch.float64)
    program = load(net, (x,))
    axes = analyze(program)
    axis = next(group.axis for group in groups(program, axes) if group.size == 32)
    name = next(name for name in program.weights if name.endswith("3.weight"))
    found = search([program.weights[name]], TWO_FOUR)
    assert found.after > found.before
    remove(program, axes, {axis: found.order})
    program = refresh(program)
    torch.testing.assert_close(program.module()(x)[0], net(x), rtol=1e-12, atol=1e-12)
    moved = program.weights[name]
    assert kept(moved, TWO_FOUR) == pytest.approx(found.after)


def test_an_order_of_columns_is_exact() -> None:
    weight, x = normal(8, 64).double(), normal(10, 64, seed=1).double()
    order = search([weight], TWO_FOUR).order
    torch.testing.assert_close(x[:, order] @ weight[:, order].mT, x @ weight.mT, rtol=1e-12, atol=1e-12)


def test_what_does_not_belong_is_refused() -> None:
    with pytest.raises(UsageError, match="share no columns"):
        search([normal(2, 8), normal(2, 12)], TWO_FOUR)
    with pytest.raises(UsageError, match="share no columns"):
        search([], TWO_FOUR)
    with pytest.raises(UsageError, match="6 inputs"):
        search([normal(2, 6)], TWO_FOUR)
    with pytest.raises(UsageError, match="labels"):
        search([normal(2, 8)], TWO_FOUR, within=torch.zeros(4))
    with pytest.raises(UsageError, match="finite"):
        search([torch.full((2, 8), torch.inf)], TWO_FOUR)
