"""Importance without data for models whose stages differ in depth and width."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.axes.analysis import Axes
from tersor.axes.groups import Group
from tersor.context import Context
from tersor.importance.criterion import Scores
from tersor.importance.layers import energy
from tersor.importance.magnitude import lamp
from tersor.importance.slices import member_sums
from tersor.program import Program


@dataclass(frozen=True)
class DataFree:
    """Magnitudes made comparable over depth and width, then ranked by the distortion of the module that they are in.

    After Data-independent Module-aware Pruning for Hierarchical Vision Transformers, He and Zhou, ICLR 2024,
    arXiv:2404.13648, which ranks single weights: there, as here, a weight's share is what it adds to the energy of all
    larger ones in its module. For whole indices two normalisations come first: each member's slice is divided by the
    mean slice of that member (so that narrow and wide layers count alike), and members are averaged, not summed (so
    that a residual stream through many blocks does not look more important for its depth). A module is all groups of
    one kind: attention heads, hidden units of feed-forward layers, channels of convolutions, residual streams.
    """

    def __call__(self, program: Program, axes: Axes, groups: Sequence[Group], context: Context) -> Scores:
        """One share per index, times the number of indices of the module."""
        modules: dict[str, list[Group]] = defaultdict(list)
        for group in groups:
            modules[group.kind].append(group)
        scores: Scores = {}
        for rows in modules.values():
            relative = [data_free(_parts(program, group)) for group in rows]
            shares = lamp(torch.cat(relative)) * sum(map(len, relative))
            scores.update(zip((group.axis for group in rows), shares.split([*map(len, relative)]), strict=True))
        return scores


def data_free(parts: Sequence[Tensor]) -> Tensor:
    """Mean over the weights of the energy of each index relative to the mean index of that weight.

    Args:
        parts: for each weight the energy of each index, shape [n].

    >>> data_free([torch.tensor([1.0, 3.0]), torch.tensor([20.0, 20.0])]).tolist()
    [0.75, 1.25]
    """
    rows = [part / part.mean().clamp_min(torch.finfo(part.dtype).tiny) for part in parts]
    return torch.stack(rows).mean(0)


def _parts(program: Program, group: Group) -> list[Tensor]:
    found = member_sums(program, group.axis, group.members, lambda _, weight: energy(weight))
    return [part.cpu() for part in found]
