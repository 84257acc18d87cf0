"""Numbers of tokens to remove at each layer, learned from unlabelled data by gradient (DiffRate, arXiv:2305.17997)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHOICES = 16
"""Each layer chooses between removing 0, 1, ... 16 of 32 of the tokens that reach it."""

LARGEST = 0.5


def shares(like: Tensor) -> Tensor:
    """The shares [17] that a layer may remove."""
    return torch.linspace(0.0, LARGEST, CHOICES + 1, device=like.device)


def kept_softly(rank: Tensor, chances: Tensor) -> Tensor:
    """How likely each token stays, given its place in the order of removal and the chances of each share.

    The token at ``rank`` (0 goes first, 1 would go last) stays where the share is no larger: the sum of those chances
    (the paper's differentiable discrete proxy, equation 5). Forward it is rounded, backward it is itself (equation 6).

    Args:
        rank: [B, T] in 0..1.
        chances: [17], sum 1.

    >>> kept_softly(torch.tensor([[0.1, 0.9]]), torch.eye(17)[8]).tolist()
    [[0.0, 1.0]]
    """
    soft = ((rank[:, :, None] >= shares(rank)) * chances).sum(-1)
    expected = (chances * shares(rank)).sum()
    return soft + ((rank >= expected).to(soft) - soft).detach()


def ranked(score: Tensor, alive: Tensor) -> Tensor:
    """Places [B, T] in the order of removal, as shares of the tokens alive: low scores go first.

    Args:
        score: [B, T]; infinite for protected tokens.
        alive: [B, T], 1 for tokens that are still there; others have place 2, which is never removed again.
    """
    order = score.masked_fill(alive < 0.5, torch.inf).argsort(dim=1)
    places = torch.arange(score.shape[1], device=score.device, dtype=score.dtype).expand_as(score)
    rank = torch.zeros_like(score).scatter(1, order, places) / alive.sum(1, keepdim=True).clamp(min=1)
    return rank.masked_fill((alive < 0.5) | score.isinf(), 2.0)


@dataclass(frozen=True)
class Course:
    """How rates are learned.

    Attributes:
        steps: of Adam.
        rate: of Adam.
        weight: of the squared difference between the work that is left and the work that is wanted.
    """

    steps: int = 40
    rate: float = 0.1
    weight: float = 30.0


Model = Callable[[Tensor, int], Tensor]
"""From the chances [layers, 17] and the number of the step to the error of the outputs, a scalar with a gradient."""


def learn(error: Model, layers: int, work: Callable[[Tensor], Tensor], wanted: float, course: Course) -> list[float]:
    """The share to remove at each layer.

    Args:
        error: of a model whose layers remove shares with the given chances.
        work: from the shares [layers] left behind each layer to the share of the work left.
        wanted: share of the work that may be left.
    """
    logits = _even(layers, wanted).requires_grad_(True)
    optimizer = torch.optim.Adam([logits], lr=course.rate)
    best = (float("inf"), logits.detach().clone())
    for step in range(course.steps):
        chances = logits.softmax(-1)
        left = (1 - (chances * shares(logits)).sum(-1)).cumprod(0)
        gap = work(left) - wanted
        loss = error(chances, step) + course.weight * gap.square()
        if float(loss.detach()) < best[0] and abs(float(gap.detach())) < 0.05:
            best = float(loss.detach()), logits.detach().clone()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    chosen = best[1] if best[0] < float("inf") else logits.detach()
    return ((chosen.softmax(-1) * shares(chosen)).sum(-1)).tolist()


def _even(layers: int, wanted: float) -> Tensor:
    """Logits around the share that would leave the wanted work, were it the same at every layer and work linear."""
    low, high = 0.0, LARGEST
    for _ in range(30):
        middle = (low + high) / 2
        left = torch.tensor([1 - middle] * layers).cumprod(0).mean()
        low, high = (middle, high) if float(left) > wanted else (low, middle)
    return -(torch.linspace(0.0, LARGEST, CHOICES + 1) - low).abs().expand(layers, -1).clone() * 30


def rounded(rates: Sequence[float], tokens: int) -> list[int]:
    """Tokens that go at each layer.

    >>> rounded([0.5, 0.25], 16)
    [8, 2]
    """
    counts = []
    for rate in rates:
        counts.append(round(rate * tokens))
        tokens -= counts[-1]
    return counts
