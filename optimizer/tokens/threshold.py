"""How many tokens a threshold on attention would leave on calibration data (LTP, arXiv:2107.00910)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def left_by_threshold(scores: Sequence[Tensor], threshold: float) -> list[float]:
    """Share of the tokens that is left behind each layer.

    A token stays while what it receives is at least the threshold of every layer so far, which rises linearly to
    ``threshold`` times the average at the last (LTP begins its training there, section 4.3). LTP's number differs from
    input to input; here it is the mean over the inputs, so that shapes are fixed.

    Args:
        scores: for each layer [N, T] mean attention that tokens receive; the average token has 1 / T.

    >>> scores = [torch.tensor([[0.5, 0.3, 0.2]])] * 2
    >>> [round(share, 2) for share in left_by_threshold(scores, 1.0)]
    [1.0, 0.33]
    """
    stays = torch.ones_like(scores[0], dtype=torch.bool)
    made = []
    for number, score in enumerate(scores):
        stays = stays & (score * score.shape[1] >= threshold * (number + 1) / len(scores))
        made.append(float(stays.float().mean()))
    return made


def removed(left: Sequence[float], tokens: int) -> list[int]:
    """Tokens that go at each layer, from the shares that are left; none come back.

    >>> removed([1.0, 0.5, 0.25], 10)
    [0, 5, 2]
    """
    counts, remaining = [], tokens
    for share in left:
        stay = min(remaining, math.ceil(share * tokens))
        counts.append(remaining - stay)
        remaining = stay
    return counts
