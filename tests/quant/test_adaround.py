"""AdaRound against every way to round a small weight, and never worse than nearest."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from tersor.errors import InputError, UsageError
from tersor.factor.least_squares import residual
from tersor.progress import Silent
from tersor.quant.adaround import HIGH, LOW, Course, _posed, adaround, descend
from tersor.quant.awq import clip
from tersor.quant.gptq import gptq
from tersor.quant.grid import grid
from tersor.quant.levels import min_max, nearest, wide

INT4 = grid("int4")
SHORT = Course(iterations=300)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(inputs: int, *, seed: int = 1, count: int = 100) -> Tensor:
    """A Gram matrix."""
    x = normal(count, inputs, seed=seed) @ (torch.eye(inputs) + 0.4 * normal(inputs, inputs, seed=seed + 1))
    return x.T @ x / count


def exhaustive(weight: Tensor, gram: Tensor, scale: Tensor) -> Tensor:
    """The least error of each output when every weight goes up or down, symmetric ranges."""
    below = (weight / scale.double()).floor()
    ways = torch.tensor(list(itertools.product((0, 1), repeat=weight.shape[1])))
    every = (below[:, None] + ways).clamp(-8, 7) * scale.double()[:, None]
    gap = every - weight[:, None]
    return ((gap @ gram) * gap).sum(-1).amin(1)


@pytest.mark.parametrize(("inputs", "exact", "excess"), [(2, 0.95, 1.06), (5, 0.75, 1.3), (8, 0.65, 1.2)])
def test_near_the_best_of_all_roundings(inputs: int, exact: float, excess: float) -> None:
    found, plain = [], []
    for seed in range(5):
        weight, gram = normal(40, inputs, seed=seed + 50), correlated(inputs, seed=2 * seed + 1)
        scale, zero = min_max(weight, INT4)
        least = exhaustive(weight, gram, scale)
        learnt = adaround(weight, gram, scale, zero, "int4", course=SHORT)
        found.append(residual(weight, learnt.values, gram) / least)
        plain.append(residual(weight, nearest(weight, scale, zero, INT4).values, gram) / least)
    ours, theirs = torch.cat(found), torch.cat(plain)
    assert bool((ours <= theirs).all())
    assert float(ours.mean()) < excess and float((ours < 1.0001).double().mean()) > exact
    assert inputs == 2 or float(ours.mean()) - 1 < 0.4 * (float(theirs.mean()) - 1)


def test_learning_alone_is_better_than_nearest_and_descent_better_still() -> None:
    """What the course finds is not descent's merit, and beats it."""
    weight, gram = normal(24, 48), correlated(48, count=400)
    scale, zero = min_max(weight, INT4)
    plain = nearest(weight, scale, zero, INT4)
    both, only, none = (
        float(residual(weight, levels.values, gram).sum())
        for levels in (adaround(weight, gram, scale, zero, "int4"), descend(weight, gram, plain, INT4), plain)
    )
    assert both < 0.95 * only < 0.7 * none


@pytest.mark.parametrize("name", ["int4", "uint4", "int8"])
@pytest.mark.parametrize("group", [None, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_never_worse_than_nearest(name: str, group: int | None, symmetric: bool) -> None:
    on, weight, gram = grid(name), normal(10, 12), correlated(12)
    for scale, zero in (
        min_max(weight, on, group=group, symmetric=symmetric),
        min_max(weight * 0.6, on, group=group, symmetric=symmetric),
    ):
        found = adaround(weight, gram, scale, zero, name, course=SHORT)
        plain = nearest(weight, scale, zero, on)
        assert bool((residual(weight, found.values, gram) <= residual(weight, plain.values, gram)).all())
        assert float(residual(weight, found.values, gram).sum()) < 0.98 * float(
            residual(weight, plain.values, gram).sum()
        )
        assert int(found.level.min()) >= on.lowest and int(found.level.max()) <= on.highest


def test_the_slope_is_the_derivative() -> None:
    weight, gram = normal(3, 6), correlated(6)
    scale, zero = min_max(weight * 0.8, INT4, group=3)
    plain, step = nearest(weight, scale, zero, INT4), wide(scale, 6).double()
    below = (weight / step).floor()
    up = torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    made = ((below + up).clamp(-8, 7)) * step
    gap = made - weight
    loss = (((gap @ gram) * gap).sum(-1) / residual(weight, plain.values, gram)).sum()
    (wanted,) = torch.autograd.grad(loss, up)
    found = _posed(weight, gram, plain, step, below, INT4).slope(up.detach().float())
    clipped = (below < -8) | (below >= 7)
    assert bool(clipped.any())
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-4)


def test_the_rectified_sigmoid_reaches_both_ends_and_is_symmetric() -> None:
    assert LOW < 0 < 1 < HIGH
    assert pytest.approx(1) == LOW + HIGH


def test_seed_and_iterations() -> None:
    weight, gram = normal(6, 10), correlated(10)
    scale, zero = min_max(weight, INT4)
    first, second = (adaround(weight, gram, scale, zero, "int4", course=SHORT, seed=3) for _ in range(2))
    assert torch.equal(first.level, second.level)
    with torch.inference_mode():
        assert torch.equal(adaround(weight, gram, scale, zero, "int4", course=SHORT, seed=3).level, first.level)
    nothing = adaround(weight, gram, scale, zero, "int4", course=Course(iterations=0))
    plain = nearest(weight, scale, zero, INT4)
    torch.testing.assert_close(
        residual(weight, nothing.values, gram), residual(weight, descend(weight, gram, plain, "int4").values, gram)
    )


def test_progress_is_told_of_each_iteration() -> None:
    class Counting(Silent):
        count = 0

        def advance(self, amount: int = 1, detail: str = "") -> None:
            self.count += amount

    progress, weight = Counting(), normal(2, 3)
    adaround(weight, torch.eye(3), *min_max(weight, INT4), "int4", course=Course(iterations=17), progress=progress)
    assert progress.count == 17


def test_identical_inputs_share_the_rounding_error() -> None:
    """Four inputs that are always the same and four weights a quarter above their levels: one of them goes up."""
    weight, gram = torch.full((1, 4), 1.25), torch.ones(4, 4)
    scale, zero = torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int32)
    found = adaround(weight, gram, scale, zero, "int4", course=SHORT)
    assert float(found.values.sum()) == 5.0 and float(residual(weight, found.values, gram)) == 0.0


def test_dead_inputs_no_data_and_batches() -> None:
    weight, gram = normal(2, 5, 6), torch.stack([correlated(6), correlated(6, seed=9)])
    gram[0, 2], gram[0, :, 2] = 0, 0
    scale, zero = min_max(weight, INT4, group=3)
    found, plain = adaround(weight, gram, scale, zero, "int4", course=SHORT), nearest(weight, scale, zero, INT4)
    assert torch.equal(found.level[0, :, 2], plain.level[0, :, 2])
    assert bool((residual(weight, found.values, gram) <= residual(weight, plain.values, gram)).all())
    nothing = adaround(weight, torch.zeros(2, 6, 6), scale, zero, "int4", course=SHORT)
    assert torch.equal(nothing.level, plain.level)
    flat = torch.zeros(2, 6)
    assert not adaround(flat, gram[1], *min_max(flat, INT4), "int4", course=SHORT).level.any()
    one = normal(4, 1)
    single = adaround(one, torch.ones(1, 1), *min_max(one, INT4), "int4", course=SHORT)
    assert torch.equal(single.level, nearest(one, *min_max(one, INT4), INT4).level)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_ill_conditioned_and_far_from_one(size: float) -> None:
    index = torch.arange(1.0, 9, dtype=torch.float64)
    gram = size / (index[:, None] + index[None, :] - 1)
    weight = normal(20, 8) * 1e-3
    scale, zero = min_max(weight, INT4)
    found = adaround(weight, gram, scale, zero, "int4", course=SHORT)
    least, plain = exhaustive(weight, gram, scale), nearest(weight, scale, zero, INT4)
    ratios = [float((residual(weight, levels.values, gram) / least).mean()) for levels in (found, plain)]
    assert ratios[0] < 0.3 * ratios[1]


def test_descent_improves_what_gptq_found_down_to_single_moves() -> None:
    weight, gram = normal(12, 32), correlated(32)
    start = gptq(weight, gram, "int4", ranges=(lambda c: (c.scale, c.zero))(clip(weight, gram, "int4")))
    found = descend(weight, gram, start, "int4")
    before, after = residual(weight, start.values, gram), residual(weight, found.values, gram)
    assert bool((after <= before).all()) and float(after.sum()) < 0.98 * float(before.sum())
    for row, column, way in itertools.product(range(3), range(32), (-1, 1)):
        moved = found.level.clone()
        moved[row, column] += way
        if -8 <= int(moved[row, column]) <= 7:
            assert residual(weight, moved * found.scale, gram)[row] >= after[row] * (1 - 1e-6)


def test_what_is_refused() -> None:
    weight = normal(2, 3)
    scale, zero = min_max(weight, INT4)
    with pytest.raises(UsageError, match="AdaRound cannot learn"):
        Course(rate=0.0)
    with pytest.raises(InputError, match="not finite"):
        adaround(weight, torch.eye(3) * torch.nan, scale, zero, "int4")
    with pytest.raises(UsageError, match="Gram matrix of shape"):
        adaround(weight, torch.eye(2), scale, zero, "int4")
