"""Structured pruning of groups of axes: the options and the work that the prune passes share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

from tersor.allocation import Candidate, Method, allocate, indices_cost
from tersor.axes import Axes, Group, analyze, cut, groups
from tersor.axes.terms import Axis
from tersor.axes.traffic import latency, memory
from tersor.axes.work import Cost, operations, parameters
from tersor.context import Context
from tersor.importance import find
from tersor.passes._multiples import inside_groups, preferred
from tersor.program import Program
from tersor.target import Target

Measure = Literal["indices", "flops", "parameters", "memory", "latency"]


@dataclass(frozen=True)
class Pruning:
    """The options of every prune pass.

    Attributes:
        ratio: share of ``of`` to remove.
        of: "indices" of the pass's own groups, or of the whole program "flops", "parameters", "memory" (bytes of
            weights and of what is alive at the busiest moment) or "latency" as predicted for the target.
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
        find(self.criterion)
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
    nodes = {node.name: node for node in program.nodes}
    chosen = _candidates(program, axes, found, nodes, context, plan)
    if not chosen:
        return
    counts = allocate(chosen, _cost(program, axes, chosen, plan.of, context.target), plan.ratio, plan.allocation)
    kept = {
        item.axis: stay
        for item in chosen
        if (stay := _announced(nodes[item.group.producers[0]], item, counts, context)) is not None
    }
    if kept:
        context.cuts.append((axes, kept))
        context.proofs += cut(program, axes, kept, context.calibration[:1])


def _candidates(
    program: Program, axes: Axes, found: Sequence[Group], nodes: Mapping[str, fx.Node], context: Context, plan: Pruning
) -> list[Candidate]:
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
    inside = inside_groups(program, axes)
    made = []
    for group in free:
        multiple = plan.multiple or preferred(group, context.target, inside)
        least = max(group.least, multiple, -(-int(group.size * plan.minimum) // multiple) * multiple)
        if least >= group.size:
            context.skip(nodes[group.producers[0]], f"{group.size} {group.kind} are not more than the minimum {least}")
            continue
        made.append(Candidate(group, scores[group.axis], multiple, least))
    return made


def _cost(program: Program, axes: Axes, chosen: Sequence[Candidate], measure: Measure, target: Target) -> Cost:
    if measure == "indices":
        return indices_cost(chosen)
    if measure == "latency":
        return latency(program, axes, target)
    return {"flops": operations, "parameters": parameters, "memory": memory}[measure](program, axes)


def _announced(node: fx.Node, item: Candidate, counts: dict[Axis, int], context: Context) -> torch.Tensor | None:
    """The indices that stay in a group, in order; None where it stays whole."""
    count = counts.get(item.axis)
    if count is None:
        context.skip(
            node, f"{item.group.size} {item.group.kind} of {item.group.name} are all worth more than they cost"
        )
        return None
    if not context.take(node, f"{item.group.size} to {count} {item.group.kind} of {item.group.name}"):
        return None
    return item.scores.topk(count).indices.sort().values
