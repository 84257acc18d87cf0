"""GPTQ against the paper's formulas with explicit inverses, against exhaustive search, and on degenerate inputs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import tersor.quant.gptq as module
from tersor.errors import InputError, UsageError
from tersor.factor.least_squares import residual
from tersor.quant.gptq import gptq
from tersor.quant.grid import Grid, dequantize, grid, quantize
from tersor.quant.levels import Levels, better, min_max, nearest, wide

INT4 = grid("int4")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(count: int, inputs: int, *, seed: int = 1, mixing: float = 0.5) -> Tensor:
    """Correlated inputs of unequal size."""
    order = torch.randperm(inputs, generator=torch.Generator().manual_seed(seed))
    spread = torch.logspace(0, 1, inputs, dtype=torch.float64)[order]
    return (
        normal(count, inputs, seed=seed) @ (torch.eye(inputs) + mixing * normal(inputs, inputs, seed=seed + 1)) * spread
    )


def published(weight: Tensor, gram: Tensor, on: Grid, group: int | None, actorder: bool, symmetric: bool) -> Levels:
    """Optimal brain quantization in a fixed order, as the paper writes it: the inverse, with one row less at a time."""
    inputs = weight.shape[1]
    order = gram.diagonal().argsort(descending=True, stable=True) if actorder else torch.arange(inputs)
    hessian = gram + 0.01 * gram.diagonal().mean() * torch.eye(inputs)
    inverse, moved = torch.linalg.inv(hessian), weight.clone()
    scale, zero = (wide(item, inputs).clone() for item in min_max(weight, on, group=group, symmetric=symmetric))
    level = torch.zeros_like(weight, dtype=on.dtype)
    for at in order.tolist():
        if group and not actorder and at % group == 0:
            fresh = min_max(moved[:, at : at + group], on, symmetric=symmetric)
            scale[:, at : at + group], zero[:, at : at + group] = fresh
        level[:, at] = quantize(moved[:, at], scale[:, at], zero[:, at], on)
        gap = (moved[:, at] - dequantize(level[:, at], scale[:, at], zero[:, at])) / inverse[at, at]
        moved = moved - gap[:, None] * inverse[at]
        inverse = inverse - torch.outer(inverse[:, at], inverse[at]) / inverse[at, at]
    size = group or inputs
    return Levels(level, scale[:, ::size], zero[:, ::size])


@pytest.mark.parametrize("name", ["int4", "uint4", "int8"])
@pytest.mark.parametrize(("group", "actorder"), [(None, False), (None, True), (4, False), (4, True), (12, False)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_published_update(
    name: str, group: int | None, actorder: bool, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 5)
    on, weight, x = grid(name), normal(20, 12), rows(100, 12)
    gram = x.T @ x
    found = gptq(weight, gram, name, group=group, actorder=actorder, symmetric=symmetric)
    plain = nearest(weight, *min_max(weight, on, group=group, symmetric=symmetric), on)
    wanted = better(weight, gram, plain, published(weight, gram, on, group, actorder, symmetric))
    assert found.level.dtype == on.dtype and found.scale.shape == (20, 12 // (group or 12))
    assert torch.equal(found.level, wanted.level)
    assert torch.equal(found.zero, wanted.zero)
    torch.testing.assert_close(found.scale, wanted.scale, rtol=1e-6, atol=0)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = normal(6, 150), rows(400, 150)
    whole = gptq(weight, x.T @ x, "int4")
    monkeypatch.setattr(module, "BLOCK", 1000)
    assert torch.equal(whole.level, gptq(weight, x.T @ x, "int4").level)


def test_the_error_is_that_of_the_outputs() -> None:
    weight, other, x = normal(5, 7), normal(5, 7, seed=3), rows(30, 7)
    torch.testing.assert_close(residual(weight, other, x.T @ x), (x @ (weight - other).T).square().sum(0))


@pytest.mark.parametrize("actorder", [True, False])
@pytest.mark.parametrize("group", [None, 8])
def test_it_is_much_better_than_nearest_and_never_worse(actorder: bool, group: int | None) -> None:
    improved, outputs = 0, 0
    for seed in range(20):
        weight, x = normal(16, 32, seed=seed), rows(200, 32, seed=100 + seed)
        gram = x.T @ x
        plain = nearest(weight, *min_max(weight, INT4, group=group), INT4)
        found = residual(weight, gptq(weight, gram, "int4", group=group, actorder=actorder).values, gram)
        limit = residual(weight, plain.values, gram)
        assert bool((found <= limit).all())
        assert float(found.sum()) < 0.75 * float(limit.sum())
        improved, outputs = improved + int((found < limit).sum()), outputs + 16
    assert improved > 0.9 * outputs


def test_two_inputs_are_optimal_where_that_can_be_proved() -> None:
    """The first weight on its nearest level is right if the second cannot make up for the cost of its neighbour.

    The error is ``a (w_0 - q_0)^2 + H_11 (rest)^2`` with ``a = H_00 - H_01^2 / H_11``, and the rest is at most half a
    step. With the first weight d away from its level, the other level costs ``a s (s - 2 d)`` more.
    """
    scale, zero = torch.full((1, 1), 0.25), torch.zeros(1, 1, dtype=torch.int32)
    every = torch.tensor(list(itertools.product(range(-8, 8), repeat=2))) * 0.25
    proved = 0
    for seed in range(200):
        weight, x = normal(1, 2, seed=seed) * 0.5, rows(10, 2, seed=seed)
        gram = x.T @ x
        free, step = float(gram[0, 0] - gram[0, 1] ** 2 / gram[1, 1]), 0.25
        off = float((weight[0, 0] / step - (weight[0, 0] / step).round()).abs()) * step
        if free * step * (step - 2 * off) <= float(gram[1, 1]) * step**2 / 4:
            continue
        proved += 1
        found = gptq(weight, gram, "int4", actorder=False, damping=1e-9, ranges=(scale, zero))
        torch.testing.assert_close(residual(weight, found.values, gram)[0], residual(weight, every, gram).min())
    assert proved > 30


def test_given_ranges_are_kept() -> None:
    weight, x = normal(4, 8), rows(40, 8)
    scale, zero = min_max(weight * 0.7, INT4, group=4)
    for actorder in (True, False):
        found = gptq(weight, x.T @ x, "int4", actorder=actorder, ranges=(scale, zero))
        assert torch.equal(found.scale, scale) and torch.equal(found.zero, zero)


def test_groups_of_a_convolution_are_problems_of_their_own() -> None:
    weight, x = normal(3, 5, 9), torch.stack([rows(60, 9, seed=seed) for seed in range(3)])
    gram = x.mT @ x
    every: list[dict[str, Any]] = [{}, {"group": 3}, {"group": 3, "actorder": False}, {"symmetric": False}]
    for options in every:
        whole = gptq(weight, gram, "int8", **options)
        for index in range(3):
            one = gptq(weight[index], gram[index], "int8", **options)
            assert torch.equal(whole.level[index], one.level) and torch.equal(whole.scale[index], one.scale)


@pytest.mark.parametrize("actorder", [True, False])
@pytest.mark.parametrize("group", [None, 2])
def test_dead_inputs_are_rounded_to_nearest(actorder: bool, group: int | None) -> None:
    weight, x = normal(10, 8), rows(50, 8)
    x[:, [0, 5]] = 0
    gram = x.T @ x
    found = gptq(weight, gram, "int4", actorder=actorder, group=group)
    inputs = weight.shape[1]
    own = quantize(weight, wide(found.scale, inputs), wide(found.zero, inputs), INT4)
    assert torch.equal(found.level[:, [0, 5]], own[:, [0, 5]])


@pytest.mark.parametrize("actorder", [True, False])
@pytest.mark.parametrize("group", [None, 3])
@pytest.mark.parametrize("gram", [torch.zeros(6, 6), torch.diag(torch.tensor([1.0, 5.0, 0.0, 2.0, 1e-9, 1e9]))])
def test_without_data_or_correlation_it_is_nearest(actorder: bool, group: int | None, gram: Tensor) -> None:
    weight = normal(4, 6)
    found = gptq(weight, gram, "int4", group=group, actorder=actorder)
    assert torch.equal(found.level, nearest(weight, *min_max(weight, INT4, group=group), INT4).level)


def test_weights_without_a_range() -> None:
    x = rows(30, 6)
    gram = x.T @ x
    assert not gptq(torch.zeros(2, 6), gram, "int4").level.any()
    constant = gptq(torch.full((2, 6), 0.3), gram, "int8", symmetric=False)
    torch.testing.assert_close(constant.values, torch.full((2, 6), 0.3))


def test_one_input_and_one_group() -> None:
    weight = normal(5, 1)
    assert torch.equal(
        gptq(weight, torch.ones(1, 1), "int4").level, nearest(weight, *min_max(weight, INT4), INT4).level
    )
    weight, x = normal(5, 6), rows(30, 6)
    one = gptq(weight, x.T @ x, "int4", group=6, actorder=False)
    assert torch.equal(one.level, gptq(weight, x.T @ x, "int4", actorder=False).level)


@pytest.mark.parametrize("damping", [0.0, 0.01])
@pytest.mark.parametrize("group", [None, 4])
def test_ill_conditioned_and_singular(damping: float, group: int | None) -> None:
    index = torch.arange(1.0, 13, dtype=torch.float64)
    hilbert, one = 1 / (index[:, None] + index[None, :] - 1), normal(1, 12)
    for gram in (hilbert, one.T @ one, hilbert * 1e-300, hilbert * 1e280):
        weight = normal(8, 12)
        for actorder in (True, False):
            found = gptq(weight, gram, "int4", damping=damping, group=group, actorder=actorder)
            plain = nearest(weight, *min_max(weight, INT4, group=group), INT4)
            assert bool((residual(weight, found.values, gram) <= residual(weight, plain.values, gram)).all())
            assert bool(found.scale.isfinite().all())


def test_half_precision_weights_and_repeatable_results() -> None:
    weight, x = normal(4, 8).to(torch.bfloat16), rows(40, 8).float()
    first, second = gptq(weight, x.T @ x, "int4"), gptq(weight, x.T @ x, "int4")
    assert torch.equal(first.level, second.level) and first.values.dtype == torch.float32
    assert torch.equal(first.level, gptq(weight.double(), (x.T @ x).double(), "int4").level)


def test_what_is_refused() -> None:
    weight, eye = normal(3, 4), torch.eye(4)
    bad = weight.clone()
    bad[1, 2] = torch.nan
    with pytest.raises(UsageError, match="NaN or infinite"):
        gptq(bad, eye, "int4")
    with pytest.raises(InputError, match="not finite"):
        gptq(weight, eye * torch.inf, "int4")
    with pytest.raises(UsageError, match=r"\[3, 4\] and a Gram matrix of shape \[3, 3\]"):
        gptq(weight, torch.eye(3), "int4")
    with pytest.raises(UsageError, match="empty"):
        gptq(torch.zeros(0, 4), eye, "int4")
    with pytest.raises(UsageError, match="groups of 3"):
        gptq(weight, eye, "int4", group=3)
    with pytest.raises(UsageError, match="positive semidefinite"):
        gptq(weight, -eye, "int4")
    with pytest.raises(UsageError, match="did you mean 'int4'"):
        gptq(weight, eye, "int44")
