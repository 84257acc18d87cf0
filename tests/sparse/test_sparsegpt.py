"""SparseGPT against the paper's recursion written with explicit inverses, and the masks against brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.factor.least_squares import residual
from tersor.quant.grid import dequantize, grid, quantize, spread
from tersor.sparse.masks import magnitude
from tersor.sparse.pattern import Pattern, conforms, is_pattern
from tersor.sparse.quadratic import moments
from tersor.sparse.refit import refit
from tersor.sparse.sparsegpt import Levels, sparsegpt
from tests.sparse.problems import every_mask, problem

TWO_FOUR = Pattern(2, 4)


def by_inverses(weight: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """Each column after the other, with the inverse of what is left computed anew for it."""
    state = weight.clone()
    for place in range(weight.shape[1]):
        inverse = torch.linalg.inv(second[place:, place:])
        lost = state[:, place] * ~mask[:, place]
        state[:, place:] -= lost[:, None] * inverse[0] / inverse[0, 0]
        state[:, place] = torch.where(mask[:, place], state[:, place], 0.0)
    return state


@pytest.mark.parametrize("width", [4, 8, 128])
def test_the_update_is_the_papers(width: int) -> None:
    weight, _, gram = problem(6, 16)
    mask = magnitude(weight, TWO_FOUR)
    found = sparsegpt(weight, gram, TWO_FOUR, mask=mask, damping=0.05, width=width)
    assert torch.equal(found.mask, mask)
    torch.testing.assert_close(found.weight, by_inverses(weight, moments(weight, gram, 0.05), mask))


def test_single_scores_are_the_papers() -> None:
    weight, _, gram = problem(6, 8)
    found = sparsegpt(weight, gram, TWO_FOUR, exhaustive=False, damping=0.0)
    scores = torch.stack([weight[:, i].square() / torch.linalg.inv(gram[i:, i:])[0, 0] for i in range(4)], 1)
    assert torch.equal(found.mask[:, :4], scores >= scores.topk(2, dim=1).values[:, 1:])


@pytest.mark.parametrize("pattern", [TWO_FOUR, Pattern(1, 4), Pattern(4, 8)], ids=str)
def test_in_one_block_no_other_mask_does_better(pattern: Pattern) -> None:
    weight, _, gram = problem(5, pattern.m)
    second = moments(weight, gram, 0.01)
    found = sparsegpt(weight, gram, pattern)
    costs = [
        residual(weight, by_inverses(weight, second, mask.expand_as(weight)), second)
        for mask in every_mask(pattern.m, pattern)
    ]
    torch.testing.assert_close(residual(weight, found.weight, second), torch.stack(costs).min(0).values)


@pytest.mark.parametrize("pattern", [TWO_FOUR, Pattern(4, 8), Pattern(1, 2)], ids=str)
@pytest.mark.parametrize("exhaustive", [True, False])
def test_it_loses_far_less_than_magnitude(pattern: Pattern, exhaustive: bool) -> None:
    weight, _, gram = problem(24, 64, seed=3)
    found = sparsegpt(weight.float(), gram, pattern, exhaustive=exhaustive)
    assert found.weight.dtype == torch.float32
    assert conforms(found.mask, pattern) and is_pattern(found.weight, pattern)
    assert bool((found.weight[~found.mask] == 0).all())
    plain = residual(weight, weight * magnitude(weight, pattern), gram).sum()
    assert float(residual(weight, found.weight, gram).sum()) < 0.65 * float(plain)


@pytest.mark.parametrize("name", ["int8", "int4", "uint8"])
@pytest.mark.parametrize("groups", [1, 4])
def test_jointly_weights_are_on_the_grid_and_zeros_stay(name: str, groups: int) -> None:
    weight, _, gram = problem(16, 32)
    levels = Levels.of(weight, grid(name), groups)
    found = sparsegpt(weight, gram, TWO_FOUR, levels=levels)
    assert is_pattern(found.weight, TWO_FOUR) and bool((found.weight[~found.mask] == 0).all())
    parts = found.weight.unflatten(1, (groups, -1))
    scale, zero = levels.scale[..., None], levels.zero[..., None]
    level = quantize(parts, scale, zero, levels.grid)
    torch.testing.assert_close(dequantize(level, scale, zero), parts.float())
    assert bool((level[parts == 0] == zero.expand_as(level)[parts == 0]).all())


def test_jointly_loses_less_than_rounding_afterwards() -> None:
    weight, _, gram = problem(24, 64, seed=5)
    pruned = sparsegpt(weight, gram, TWO_FOUR)
    levels = Levels.of(pruned.weight, grid("int4"))
    joint = sparsegpt(weight, gram, TWO_FOUR, mask=pruned.mask, levels=levels)
    scale, zero = spread(levels.scale[:, 0], weight, 0), spread(levels.zero[:, 0], weight, 0)
    after = dequantize(quantize(pruned.weight, scale, zero, levels.grid), scale, zero)
    assert float(residual(weight, joint.weight, gram).sum()) < float(residual(weight, after, gram).sum())


def test_inputs_that_are_never_active_go_first() -> None:
    weight, _, gram = problem(4, 8)
    weight[:, [1, 2, 5]] = 100.0
    gram[[1, 2, 5]] = 0
    gram[:, [1, 2, 5]] = 0
    found = sparsegpt(weight, gram, TWO_FOUR)
    assert found.mask[:, :4].tolist() == [[True, False, False, True]] * 4
    assert not bool(found.mask[:, 5].any())
    assert bool(found.weight.isfinite().all())
    everything = sparsegpt(weight, torch.zeros(8, 8), TWO_FOUR)
    torch.testing.assert_close(everything.weight, weight * everything.mask)


def test_few_samples_need_damping() -> None:
    weight, x, _ = problem(4, 16, samples=5)
    gram = x.mT @ x
    assert is_pattern(sparsegpt(weight, gram, TWO_FOUR, damping=0.01).weight, TWO_FOUR)
    with pytest.raises(UsageError, match="more damping"):
        sparsegpt(weight, gram - 1e-6 * torch.eye(16).double(), TWO_FOUR, damping=0.0)


def test_the_scale_of_the_moments_does_not_matter() -> None:
    weight, _, gram = problem(4, 16)
    one, other = sparsegpt(weight, gram, TWO_FOUR), sparsegpt(weight, gram * 4096, TWO_FOUR)
    torch.testing.assert_close(one.weight, other.weight)
    assert torch.equal(one.mask, other.mask)


def test_arguments_that_do_not_belong_are_refused() -> None:
    weight, _, gram = problem(4, 8)
    for bad in (weight[:, :6], weight[0]):
        with pytest.raises(UsageError):
            sparsegpt(bad, gram, TWO_FOUR)
    with pytest.raises(UsageError, match="mask"):
        sparsegpt(weight, gram, TWO_FOUR, mask=torch.ones(4, 4, dtype=torch.bool))
    with pytest.raises(UsageError, match="scales"):
        sparsegpt(weight, gram, TWO_FOUR, levels=Levels.of(weight[:2], grid("int8")))
    with pytest.raises(UsageError, match="groups"):
        Levels.of(weight, grid("int8"), 3)
    with pytest.raises(UsageError, match="damping"):
        sparsegpt(weight, gram, TWO_FOUR, damping=-1.0)


def test_parameters_are_taken_and_not_changed() -> None:
    weight, _, gram = problem(4, 8)
    parameter = torch.nn.Parameter(weight.clone())
    found = sparsegpt(parameter, gram, TWO_FOUR)
    assert not found.weight.requires_grad and not refit(parameter, found.mask, gram).requires_grad
    assert torch.equal(parameter, weight)


def test_a_refit_only_helps() -> None:
    weight, _, gram = problem(12, 32)
    found = sparsegpt(weight, gram, TWO_FOUR)
    second = moments(weight, gram, 0.01)
    better = refit(weight, found.mask, gram)
    assert bool((residual(weight, better, second) <= residual(weight, found.weight, second) + 1e-12).all())
