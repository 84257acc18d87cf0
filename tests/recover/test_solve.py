"""Ridge regression against numpy's least squares and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tersor.recover.solve import Rows, refitted, ridge


def rows(count: int, groups: int, inputs: int, outputs: int, seed: int = 0, noise: float = 0.1) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.Generator().manual_seed(99)
    x = torch.randn(count, groups, inputs, generator=generator) + 0.5
    w = torch.randn(groups, inputs, outputs, generator=truth)
    r = torch.einsum("ngi,gio->ngo", x, w) + 0.7 + noise * torch.randn(count, groups, outputs, generator=generator)
    return Rows(x, r)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("biased", [True, False])
def test_without_damping_it_is_least_squares(groups: int, biased: bool) -> None:
    fit = rows(200, groups, 5, 4)
    found = ridge(fit, rows(50, groups, 5, 4, seed=1), dampings=(1e-13,), biased=biased)
    for group in range(groups):
        x, r = fit.inputs[:, group].double().numpy(), fit.residual[:, group].double().numpy()
        design = np.hstack([x, np.ones((len(x), 1))]) if biased else x
        wanted = np.linalg.lstsq(design, r, rcond=None)[0]
        np.testing.assert_allclose(found.update[group].numpy(), wanted[:5], atol=1e-9)
        np.testing.assert_allclose(found.shift[group].numpy(), wanted[5] if biased else 0.0, atol=1e-9)


def test_more_unknowns_than_rows_give_the_same_as_the_normal_equations() -> None:
    fit = rows(12, 1, 40, 3)
    found = ridge(fit, rows(30, 1, 40, 3, seed=1), dampings=(0.1,))
    x = fit.inputs[:, 0].double() - fit.inputs[:, 0].double().mean(0)
    r = fit.residual[:, 0].double() - fit.residual[:, 0].double().mean(0)
    gram = x.T @ x
    wanted = torch.linalg.solve(gram + 0.1 * gram.diagonal().mean() * torch.eye(40), x.T @ r)
    torch.testing.assert_close(found.update[0], wanted)


def test_each_group_gets_its_own_damping() -> None:
    clean, noise = rows(60, 1, 20, 2, noise=0.0), rows(60, 1, 20, 2, noise=30.0)
    judges = rows(60, 1, 20, 2, seed=1, noise=0.0), rows(60, 1, 20, 2, seed=1, noise=30.0)
    both = Rows(torch.cat([clean.inputs, noise.inputs], 1), torch.cat([clean.residual, noise.residual], 1))
    judge = Rows(torch.cat([j.inputs for j in judges], 1), torch.cat([j.residual for j in judges], 1))
    found = ridge(both, judge)
    assert found.damping[0] < 1e-4 and not found.damping[1] <= found.damping[0]


def test_what_does_not_help_on_other_rows_is_left_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    fit = Rows(torch.randn(10, 1, 9, generator=generator), torch.randn(10, 1, 2, generator=generator) + 3)
    judge = Rows(torch.randn(50, 1, 9, generator=generator), torch.randn(50, 1, 2, generator=generator) - 3)
    found = ridge(fit, judge)
    assert not found.improved and not found.update.any() and not found.shift.any() and found.damping.isnan().all()
    assert torch.equal(found.before, found.after)


def test_infinite_damping_moves_the_bias_to_the_mean() -> None:
    fit, judge = rows(80, 2, 3, 4), rows(40, 2, 3, 4, seed=1)
    found = ridge(fit, judge, dampings=(math.inf,))
    torch.testing.assert_close(found.shift, fit.residual.double().mean(0))
    assert not found.update.any()


def test_dead_inputs_and_constant_columns_are_harmless() -> None:
    fit, judge = rows(80, 1, 4, 2), rows(40, 1, 4, 2, seed=1)
    for part in (fit, judge):
        part.inputs[:, :, 0], part.inputs[:, :, 1] = 0.0, 1.0
    found = ridge(fit, judge)
    assert found.update.isfinite().all() and found.improved
    assert not ridge(Rows(fit.inputs * 0, fit.residual), Rows(judge.inputs * 0, judge.residual)).update.any()


def test_rows_that_are_not_finite_are_left_out() -> None:
    part = rows(10, 1, 3, 2)
    part.inputs[2, 0, 0], part.residual[5, 0, 1] = math.nan, math.inf
    assert len(part.finite()) == 8 and part.finite().inputs.isfinite().all()


def test_refitting_keeps_the_damping_and_uses_all_rows() -> None:
    fit, judge = rows(40, 2, 5, 3), rows(40, 2, 5, 3, seed=1)
    found = ridge(fit, judge)
    everything = Rows.joined(fit, judge)
    again = refitted(found, everything)
    for group, damping in enumerate(found.damping.tolist()):
        wanted = ridge(everything, everything, dampings=(damping,))
        torch.testing.assert_close(again.update[group], wanted.update[group])
    assert torch.equal(again.after, found.after)


@pytest.mark.parametrize("count", [200, 12])
def test_a_support_is_kept_and_solved_for_exactly(count: int) -> None:
    """Against numpy on the columns that may differ from zero, with the damping as rows of the system."""
    fit = rows(count, 2, 16, 3)
    support = torch.rand(2, 16, 3, generator=torch.Generator().manual_seed(3)) > 0.5
    found = ridge(fit, fit, dampings=(1e-3,), support=support)
    assert bool((found.update[~support] == 0).all())
    for group in range(2):
        x, r = fit.inputs[:, group].double(), fit.residual[:, group].double()
        x, r = x - x.mean(0), r - r.mean(0)
        pull = (1e-3 * x.square().sum() / 16).sqrt()
        for output in range(3):
            kept = support[group, :, output]
            design = torch.cat([x[:, kept], pull * torch.eye(int(kept.sum()), dtype=torch.float64)])
            target = torch.cat([r[:, output], torch.zeros(int(kept.sum()), dtype=torch.float64)])
            wanted = np.linalg.lstsq(design.numpy(), target.numpy(), rcond=None)[0]
            np.testing.assert_allclose(found.update[group, kept, output].numpy(), wanted, atol=1e-8)
