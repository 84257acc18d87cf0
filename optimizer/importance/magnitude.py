"""Importance from the weights alone: norms of slices, compared within a group, LAMP, or chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tersor.axes.analysis import Axes
from tersor.axes.groups import Group
from tersor.context import Context
from tersor.errors import UsageError
from tersor.importance.criterion import Scores, normalized
from tersor.importance.slices import Sides, member_sums, sides, total
from tersor.program import Program


@dataclass(frozen=True)
class Magnitude:
    """Norm of everything in the weights that belongs to an index.

    Pruning Filters for Efficient ConvNets, Li et al., ICLR 2017, arXiv:1608.08710 (L1 norm of a filter); summed over
    all coupled layers as in DepGraph, Fang et al., CVPR 2023, arXiv:2301.12900.

    Attributes:
        norm: 1 for the sum of magnitudes, 2 for the Euclidean norm.
        producers: only where the index is made, not where it is read; all members where nothing makes it.
        normalize: divide by the mean over the group, for a ranking over several groups.
    """

    norm: Literal[1, 2] = 2
    producers: bool = False
    normalize: bool = True

    def __post_init__(self) -> None:
        if self.norm not in (1, 2):
            raise UsageError(f"norm is {self.norm!r}", "choose 1 or 2")

    def __call__(self, program: Program, axes: Axes, groups: Sequence[Group], context: Context) -> Scores:
        """One norm per index."""
        found = sides(program)
        scores = {
            group.axis: magnitude(program, group, self.norm, found if self.producers else None) for group in groups
        }
        return {axis: normalized(score) for axis, score in scores.items()} if self.normalize else scores


def magnitude(program: Program, group: Group, norm: int = 2, only: Sides | None = None) -> Tensor:
    """The norm of the slices of each index, float64 [size]; ``only`` restricts them to what makes the indices."""
    members = (only.producers(group) if only is not None else []) or group.members
    parts = member_sums(program, group.axis, members, lambda _, weight: weight.detach().double().abs().pow(norm))
    return total(parts, group.size).pow(1 / norm)


@dataclass(frozen=True)
class Lamp:
    """Energy of an index relative to what would survive with it, so that no group is emptied by a global ranking."""

    producers: bool = False

    def __call__(self, program: Program, axes: Axes, groups: Sequence[Group], context: Context) -> Scores:
        """One share per index, between 0 and 1; the largest of each group has 1."""
        found = sides(program) if self.producers else None
        return {group.axis: lamp(magnitude(program, group, 2, found).square()) for group in groups}


def lamp(energy: Tensor) -> Tensor:
    """Energy of each index divided by the energy of all indices that are not smaller.

    Layer-Adaptive Sparsity for the Magnitude-based Pruning, Lee et al., ICLR 2021, arXiv:2010.07611, with indices of a
    group in place of single weights of a layer.

    Args:
        energy: sum of squares of each index, shape [n].

    >>> lamp(torch.tensor([3.0, 1.0])).tolist()
    [1.0, 0.25]
    """
    order = energy.argsort(stable=True)
    remaining = energy[order].flip(0).cumsum(0).flip(0)
    share = energy[order] / remaining.clamp_min(torch.finfo(energy.dtype).tiny)
    return torch.empty_like(energy).index_copy_(0, order, share)


@dataclass(frozen=True)
class Random:
    """Chance, under the context's seed: the baseline that a criterion has to beat."""

    def __call__(self, program: Program, axes: Axes, groups: Sequence[Group], context: Context) -> Scores:
        """Uniform numbers between 0 and 1."""
        generator = torch.Generator().manual_seed(context.seed)
        return {group.axis: torch.rand(group.size, generator=generator, dtype=torch.float64) for group in groups}
