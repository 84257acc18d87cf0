"""How many tokens go at each layer: schedules, thresholds, and numbers learned by gradient."""

from __future__ import annotations

import pytest
import torch

from tersor.tokens.learned import Course, kept_softly, learn, ranked, rounded, shares
from tersor.tokens.rates import Rate, chosen, schedule
from tersor.tokens.rates import shares as parts_of
from tersor.tokens.threshold import left_by_threshold, removed


@pytest.mark.parametrize("shape", ["constant", "decreasing", "early"])
@pytest.mark.parametrize(("tokens", "layers", "share"), [(196, 12, 0.5), (16, 4, 0.9), (7, 3, 0.1), (5, 1, 0.5)])
def test_a_schedule_removes_its_share(shape: str, tokens: int, layers: int, share: float) -> None:
    counts = schedule(tokens, layers, share, shape)
    assert len(counts) == layers and sum(counts) == round(share * tokens) and min(counts) >= 0


def test_shares_of_what_reaches_each_layer_multiply() -> None:
    left = 1.0
    for parts in parts_of(6, 0.6):
        left *= 1 - parts / 64
    assert left == pytest.approx(0.4, abs=0.02)
    assert Rate(parts=16).of(1) == 0


def test_layers_by_number() -> None:
    assert chosen(range(5), "0+3-") == [0, 3, 4]
    assert chosen(range(2), "7") == []


def test_a_threshold_of_the_average() -> None:
    scores = [torch.tensor([[0.4, 0.3, 0.2, 0.1]]), torch.tensor([[0.4, 0.1, 0.4, 0.1]])]
    assert left_by_threshold(scores, 1.0) == [0.75, 0.5]
    assert removed([0.75, 0.5], 8) == [2, 2]


def test_what_stays_softly_is_hard_forward_and_has_a_gradient() -> None:
    logits = torch.zeros(17, requires_grad=True)
    rank = torch.tensor([[0.0, 0.1, 0.3, 0.9]])
    kept = kept_softly(rank, logits.softmax(0))
    assert set(kept.flatten().tolist()) <= {0.0, 1.0}
    kept[0, 1].backward()
    assert logits.grad is not None and float(logits.grad[0]) > 0 > float(logits.grad[-1])


def test_tokens_that_are_gone_have_no_rank() -> None:
    alive = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    rank = ranked(torch.tensor([[0.3, 0.0, 0.1, torch.inf]]), alive)
    assert rank[0, 1] == rank[0, 3] == 2.0
    assert rank[0, 2] < rank[0, 0] < 1.0


def test_learning_removes_where_it_hurts_least() -> None:
    def error(chances: torch.Tensor, step: int) -> torch.Tensor:
        gone = (chances * shares(chances)).sum(-1)
        return 5 * gone[0].square() + 0.1 * gone[1].square()

    rates = learn(error, 2, lambda left: left.mean(), 0.8, Course(steps=150))
    left = torch.tensor([1 - rate for rate in rates]).cumprod(0)
    assert float(left.mean()) == pytest.approx(0.8, abs=0.05)
    assert rates[1] > 2 * rates[0]


def test_rates_as_numbers() -> None:
    assert rounded([0.5, 0.5, 0.0], 16) == [8, 4, 0]
