"""What a layer does for the result, as the divergence of the result without it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def divergence(wanted: Sequence[Tensor], made: Sequence[Tensor]) -> float:
    """Mean Kullback-Leibler divergence of ``made`` [..., classes] from ``wanted``, both logits.

    The layer contribution of ShortV (arXiv:2504.00502, equation 5).

    >>> import torch
    >>> same = [torch.tensor([[0.0, 1.0]])]
    >>> divergence(same, same)
    0.0
    """
    total, rows = 0.0, 0
    for right, other in zip(wanted, made, strict=True):
        first, second = (item.double().log_softmax(-1) for item in (right, other))
        each = (first.exp() * (first - second)).sum(-1)
        total += float(each.sum())
        rows += each.numel()
    return total / rows if rows else 0.0
