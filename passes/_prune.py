"""Structured pruning of groups of axes: the options and the work that the prune passes share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from tersor.allocation import Candidate, Method, allocate, indices_cost
from tersor.axes import Axes, Group, analyze, cut, groups
from tersor.axes.terms import Axis
from tersor.axes.work import Cost, operations, parameters
from tersor.context import Context
from tersor.errors import RewriteError
from tersor.importance import find
from tersor.program import Program

Measure = Literal["indices", "flops", "parameters"]


@dataclass(frozen=True)
class Pruning:
    """The options of every prune pass.

    Attributes:
        ratio: share of ``of`` to remove.
        of: "indices" of the pass's own groups, or "flops" or "parameters" of the whole program.
        criterion: importance criterion, see `tersor.importance`.
        allocation: "uniform", "global", "greedy" or "knapsack", see `tersor.allocation`.
        minimum: share of each group that stays at least, against the collapse of a layer.
        multiple: counts that stay are multiples of it; 0 lets the target decide.
    """

    ratio: float = 0.3
    of: Measure = "indices"
    criterion: str = "surgeon"
    allocation: Method = "global"
    minimum: float = 0.1
    multiple: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < 1.0:
            raise ValueError(f"ratio is {self.ratio}, wanted a share between 0 and 1")
        if not 0.0 <= self.minimum < 1.0:
            raise ValueError(f"minimum is {self.minimum}, wanted a share from 0 to below 1")
        if self.multiple < 0:
            raise ValueError(f"multiple is {self.multiple}, wanted 0 or a positive number")
        if self.of == "indices" and self.minimum > 1.0 - self.ratio:
            raise ValueError(f"minimum {self.minimum} keeps more than ratio {self.ratio} leaves")


def prune(program: Program, context: Context, kinds: Collection[str], plan: Pruning) -> None:
    """Cut the free groups of some kinds, in place, with proof; announces each group as a site."""
    axes = analyze(program)
    found = [group for group in groups(program, axes) if group.kind in kinds and group.size > 1]
    chosen = _candidates(program, axes, found, context, plan)
    if not chosen:
        return
    counts = allocate(chosen, _cost(program, axes, chosen, plan.of), plan.ratio, plan.allocation)
    kept = {item.axis: stay for item in chosen if (stay := _announced(program, item, counts, context)) is not None}
    if kept:
        context.cuts.append((axes, kept))
        context.proofs += cut(program, axes, kept, context.calibration[:1])


def _candidates(
    program: Program, axes: Axes, found: Sequence[Group], context: Context, plan: Pruning
) -> list[Candidate]:
    nodes = {node.name: node for node in program.nodes}
    free = []
    for group in found:
        if not group.producers:
            continue
        if group.pin:
            context.skip(nodes[group.producers[0]], f"{group.kind} of {group.name} ({group.size}) stay: {group.pin}")
        else:
            free.append(group)
    if not free:
        return []
    scores = find(plan.criterion)(program, axes, free, context)
    made = []
    for group in free:
        multiple = plan.multiple or preferred(group)
        least = max(group.least, -(-int(group.size * plan.minimum) // multiple) * multiple)
        if least >= group.size:
            context.skip(nodes[group.producers[0]], f"{group.size} {group.kind} are not more than the minimum {least}")
            continue
        made.append(Candidate(group, checked(scores[group.axis], plan.criterion, group), multiple, least))
    return made


def preferred(group: Group) -> int:
    """Counts that vector units and cache lines like, where a group is large enough to choose."""
    if group.kind in ("heads", "experts"):
        return 1
    return next((step for step in (16, 8, 4, 2) if group.size >= 4 * step), 1)


def checked(scores: torch.Tensor, criterion: str, group: Group) -> torch.Tensor:
    """Scores that can be ranked; raises RewriteError."""
    if tuple(scores.shape) != (group.size,) or not bool(torch.isfinite(scores).all()):
        raise RewriteError(
            f"criterion {criterion!r} gave {tuple(scores.shape)} scores, some not finite, for {group.name}",
            f"wanted {group.size} finite numbers",
        )
    return scores


def _cost(program: Program, axes: Axes, chosen: Sequence[Candidate], measure: Measure) -> Cost:
    if measure == "indices":
        return indices_cost(chosen)
    return operations(program, axes) if measure == "flops" else parameters(program, axes)


def _announced(program: Program, item: Candidate, counts: dict[Axis, int], context: Context) -> torch.Tensor | None:
    """The indices that stay in a group, in order; None where it stays whole."""
    node = next(node for node in program.nodes if node.name == item.group.producers[0])
    count = counts.get(item.axis)
    if count is None:
        context.skip(
            node, f"{item.group.size} {item.group.kind} of {item.group.name} are all worth more than they cost"
        )
        return None
    if not context.take(node, f"{item.group.size} to {count} {item.group.kind} of {item.group.name}"):
        return None
    return item.scores.topk(count).indices.sort().values
