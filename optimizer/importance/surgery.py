"""The optimal brain surgeon on matrices: errors of removing inputs of a linear map and re-solving for the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Problem:
    """One linear map whose inputs belong to indices; all tensors float64.

    Attributes:
        weight: [outputs, inputs].
        inverse: inverse of the second moments of the inputs, damped, [inputs, inputs].
        owners: the index that each input belongs to, -1 where none, int64 [inputs].
        rows: the index that each output goes with, -1 where none, int64 [outputs]; it does not count in that
            index's error.
        scale: errors are divided by it.
    """

    weight: Tensor
    inverse: Tensor
    owners: Tensor
    rows: Tensor
    scale: float = 1.0


def damped(moments: Tensor, damping: float) -> Tensor:
    """Second moments ``[..., m, m]`` plus ``damping`` times the mean of their diagonal, so that they can be inverted.

    >>> damped(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), 0.5).tolist()
    [[2.5, 0.0], [0.0, 0.5]]
    """
    mean = moments.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(torch.finfo(torch.float32).tiny)
    return moments + damping * mean[..., None, None] * torch.eye(moments.shape[-1]).to(moments)


def surgeon(problem: Problem, size: int) -> Tensor:
    """The squared error of removing each index's inputs, the weights of the others re-optimised, shape [size].

    For the inputs B of an index it is the trace of ``W_B (inverse_BB)^-1 W_B^T``.

    >>> eye = torch.eye(2).double()
    >>> surgeon(Problem(torch.tensor([[1.0, 2.0]]).double(), eye, torch.tensor([0, 1]), torch.tensor([-1])), 2).tolist()
    [1.0, 4.0]
    """
    total = problem.weight.new_zeros(size)
    for index, places in _blocks(problem.owners, size):
        blocks = problem.inverse[places[:, :, None], places[:, None, :]]
        weight = problem.weight[:, places].permute(1, 2, 0)
        error = (weight * torch.linalg.solve(blocks, weight)).sum(1)
        error = error.masked_fill(index[:, None] == problem.rows[None, :], 0)
        total[index] = error.sum(1) / problem.scale
    return total


def _blocks(owners: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices and their inputs ``[n, b]``, for each number b of inputs that an index has."""
    counts = torch.bincount(owners[owners >= 0], minlength=size)
    order = owners.argsort(stable=True)[int((owners < 0).sum()) :]
    starts = counts.cumsum(0) - counts
    for count in counts.unique().tolist():
        if count:
            index = (counts == count).nonzero().flatten()
            yield index, order[starts[index, None] + torch.arange(count, device=order.device)]


def greedy(problems: Sequence[Problem], size: int) -> Tensor:
    """The error up to and including the removal of each index, removing the cheapest again and again, shape [size].

    After each removal the remaining weights are re-optimised and the inverse is that of what remains, so the order
    takes into account what has gone before.
    """
    scores, spent = problems[0].weight.new_zeros(size), 0.0
    gone = torch.zeros(size, dtype=torch.bool)
    for _ in range(size):
        errors = torch.stack([surgeon(problem, size) for problem in problems]).sum(0)
        chosen = int(errors.clamp_min(0).masked_fill(gone.to(errors.device), torch.inf).argmin())
        spent += max(float(errors[chosen]), 0.0)
        scores[chosen], gone[chosen] = spent, True
        problems = [_without(problem, chosen) for problem in problems]
    return scores


def _without(problem: Problem, index: int) -> Problem:
    """The problem after the removal of one index."""
    places = (problem.owners == index).nonzero().flatten()
    weight = problem.weight.masked_fill((problem.rows == index)[:, None], 0)
    if not len(places):
        return replace(problem, weight=weight)
    across = problem.inverse[places]
    solved = torch.linalg.solve(problem.inverse[places[:, None], places[None, :]], across)
    weight = weight - weight[:, places] @ solved
    inverse = problem.inverse - across.mT @ solved
    weight[:, places] = 0
    owners = problem.owners.index_fill(0, places, -1)
    return replace(problem, weight=weight, inverse=inverse, owners=owners)
