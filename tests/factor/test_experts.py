"""Clusters of hidden units, contributions and choices."""

from __future__ import annotations

import torch

from tersor.factor.experts import capacity, chosen, cluster, contributions, similarity
from tersor.factor.observe import Moments


def test_units_that_are_strong_together_form_a_cluster() -> None:
    torch.manual_seed(0)
    parts = torch.randperm(24) % 4
    switches = (torch.rand(2000, 4) < 0.3).double()
    hidden = switches[:, parts] * (1 + torch.rand(2000, 24)) * torch.tensor([1.0, -1.0]).repeat(12)
    found = cluster(similarity(Moments.of(hidden)), 4)
    assert torch.equal(found[:, None] == found[None], parts[:, None] == parts[None])
    assert found.bincount().tolist() == [6] * 4


def test_constant_units_are_alike_to_nothing() -> None:
    hidden = torch.cat([torch.ones(50, 2), torch.randn(50, 2)], 1)
    made = similarity(Moments.of(hidden))
    assert bool(made.isfinite().all()) and float(made[0, 2:].abs().max()) < 1e-6


def test_contributions_add_up_to_the_output() -> None:
    torch.manual_seed(0)
    hidden, weight, parts = torch.randn(2, 3, 8), torch.randn(5, 8), torch.arange(8) % 2
    mean = hidden.mean((0, 1))
    one = hidden.clone()
    one[..., parts == 1] = mean[parts == 1]
    moved = (one - mean) @ weight.T
    torch.testing.assert_close(contributions(hidden, mean, weight, parts)[..., 0], moved.norm(dim=-1))


def test_each_expert_takes_its_best_tokens_within_each_sample() -> None:
    scores = torch.randn(3, 10, 4)
    taken = chosen(scores, 4)
    assert bool((taken.sum(1) == 4).all())
    for sample in range(3):
        for expert in range(4):
            inside = taken[sample, :, expert] == 1
            assert scores[sample, inside, expert].min() >= scores[sample, ~inside, expert].max()


def test_capacity_is_a_share_rounded_up() -> None:
    assert [capacity(n, 4) for n in (1, 4, 5, 16, 17)] == [1, 1, 2, 4, 5]
    assert capacity(17, 16) == 17
