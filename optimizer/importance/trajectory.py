"""Importance by trajectory: how much of what an index says is still there in the features of later layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from tersor.axes.analysis import Axes
from tersor.axes.groups import Group
from tersor.axes.terms import Axis
from tersor.context import Context
from tersor.errors import UsageError
from tersor.importance.criterion import Scores, calibration
from tersor.importance.layers import matrix
from tersor.importance.magnitude import magnitude
from tersor.importance.reads import Read, missed, reads
from tersor.importance.samples import Samples, batch_size, samples
from tersor.importance.slices import by_owner
from tersor.interface import Flat
from tersor.program import Program

POINTS = 8
"""Random combinations of positions that stand for an activation."""


@dataclass(frozen=True)
class Trajectory:
    """Variance of an index that features of later layers still explain, weighted by its consumers' squared weights.

    One-shot and label-free: an index whose variation is lost or overwritten on the way to the output is dispensable,
    one that a linear map of later features predicts is carried on. The measure is this project's own; it joins the idea
    of propagating importance back from later features (NISP, Yu et al., CVPR 2018, arXiv:1711.05908) with linear
    comparisons of representations (Kornblith et al., ICML 2019, arXiv:1905.00414). Activations are compared example by
    example through fixed random combinations of their entries.

    Attributes:
        later: how many later reads, evenly spread up to the last, are looked at; the outputs come on top.
        width: random combinations of a later feature's entries; more need more calibration examples.
        ridge: of the prediction, relative to the features' mean variance.
        relative: divide by each consumer's sum over indices, so that consumers and groups can be compared.
    """

    later: int = 2
    width: int = 24
    ridge: float = 0.1
    relative: bool = True

    def __post_init__(self) -> None:
        if self.later < 0 or self.width < 1 or not self.ridge > 0:
            raise UsageError(f"{self}", "give later >= 0, width >= 1 and ridge > 0")

    def __call__(self, program: Program, axes: Axes, groups: Sequence[Group], context: Context) -> Scores:
        """Sum over the reads of each index."""
        every = reads(program, axes)
        rows = {group.axis: every.get(group.axis, []) for group in groups}
        wanted = {id(read): read for part in rows.values() for read in part}
        ends = _ends(program, list(wanted.values()), self.later)
        runner = _Runner(program, samples(program, axes), list(wanted.values()), ends, self.width, context.seed)
        for flat in calibration(program, context):
            program.check_inputs(flat)
            runner.add(flat)
        explained = {place: runner.explained(read, self.ridge) for place, read in wanted.items()}
        scores = {axis: self._score(program, axes, axis, part, explained) for axis, part in rows.items()}
        return scores | {group.axis: magnitude(program, group) for group in groups if not rows[group.axis]}

    def _score(
        self, program: Program, axes: Axes, axis: Axis, part: Sequence[Read], explained: Mapping[int, Tensor]
    ) -> Tensor:
        size = int(axis.size)
        total = torch.zeros(size, dtype=torch.float64)
        for read in part:
            value = by_owner(explained[id(read)] * _weight(program, axes, read, axis), read.owners(axis), size)
            total += value / value.sum().clamp_min(torch.finfo(torch.float32).tiny) if self.relative else value
        return total


def trajectory(moments: Tensor, across: Tensor, later: Tensor, ridge: float) -> Tensor:
    """Variance of each index that a linear map of later features predicts, summed over its points, shape [n].

    Args:
        moments: variance of each index at each point, [n, points].
        across: covariances with the later features, [n, points, d].
        later: covariance of the later features, [d, d].
        ridge: added to the diagonal of ``later``, relative to its mean.

    >>> one = torch.ones(1, 1)
    >>> trajectory(one * 4, torch.tensor([[[2.0]]]), one, 1e-9).tolist()
    [4.0]
    """
    mean = later.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    inverse = torch.linalg.inv(later + ridge * mean * torch.eye(len(later)).to(later))
    found = torch.einsum("npd,de,npe->np", across, inverse, across)
    return torch.minimum(found.clamp_min(0), moments.clamp_min(0)).sum(1)


def _weight(program: Program, axes: Axes, read: Read, axis: Axis) -> Tensor:
    """Sum of squared weights of each input, without outputs that go with it; 1 for sums without a weight."""
    if read.layer is None:
        return torch.ones(len(read.owners(axis)), dtype=torch.float64)
    squares = matrix(read.layer, program.weights[read.layer.weight].detach().double()).square().sum(-1)
    return (squares * missed(axes, read, axis).to(squares.device)).sum(1).flatten().cpu()


def _ends(program: Program, wanted: Sequence[Read], later: int) -> dict[str, list[str]]:
    """For each reading node its own result, some results of later reads that depend on it, and the outputs."""
    after: dict[str, set[str]] = {}
    stops = {read.node for read in wanted}
    order = [node.name for node in program.nodes]
    for node in reversed(list(program.nodes)):
        after[node.name] = {name for user in node.users for name in (user.name, *after[user.name])}
        after[node.name] &= stops | {item.name for item in program.outputs}
    place = {name: position for position, name in enumerate(order)}
    outputs = [item.name for item in program.outputs if _is_floating(item)]
    found = {}
    for name in stops:
        rest = sorted((after[name] & stops) - set(outputs), key=place.__getitem__)
        step = [rest[round(index * (len(rest) - 1) / max(later - 1, 1))] for index in range(later)] if rest else []
        ends = [item for item in outputs if item in after[name] or item == name]
        found[name] = list(dict.fromkeys([*step, *ends])) or [name]
    return found


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


@dataclass
class _Joint:
    """Running sums of a pair of an activation and a later feature."""

    count: int = 0
    sums: dict[str, Any] = field(default_factory=lambda: defaultdict(int))

    def add(self, first: Tensor, second: Tensor) -> None:
        self.count += len(first)
        for name, value in (
            ("a", first.sum(0)), ("aa", first.square().sum(0)), ("b", second.sum(0)), ("bb", second.T @ second),
            ("ab", torch.einsum("snp,sd->npd", first, second)),
        ):  # fmt: skip
            self.sums[name] = self.sums[name] + value

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        count = max(self.count, 1)
        mean = {name: value / count for name, value in self.sums.items()}
        a, b = mean["a"], mean["b"]
        return mean["aa"] - a.square(), mean["ab"] - a[..., None] * b, mean["bb"] - torch.outer(b, b)


class _Runner(fx.Interpreter):
    """Keeps sketches of one input's activations, and running sums over inputs."""

    def __init__(
        self, program: Program, samples: Samples, wanted: Sequence[Read], ends: Mapping[str, list[str]], width: int,
        seed: int,
    ) -> None:  # fmt: skip
        super().__init__(program.module(), garbage_collect_values=True)
        self.samples, self.ends, self.width, self.seed = samples, ends, width, seed
        self.wanted: dict[str, list[Read]] = defaultdict(list)
        for read in wanted:
            self.wanted[read.node].append(read)
        self.later = {name for names in ends.values() for name in names}
        self.sums: dict[tuple[int, str], _Joint] = defaultdict(_Joint)
        self.squares: dict[int, list[Tensor]] = defaultdict(list)
        self.count = 1

    def add(self, flat: Flat) -> None:
        """Run one input."""
        self.count = batch_size(flat)
        self.heads: dict[int, Tensor] = {}
        self.tails: dict[str, Tensor] = {}
        with torch.no_grad():
            self.run(*flat)
        for name, rows in self.wanted.items():
            for read in rows:
                for end in self.ends[name]:
                    if id(read) in self.heads and end in self.tails:
                        self.sums[id(read), end].add(self.heads[id(read)], self.tails[end])

    def explained(self, read: Read, ridge: float) -> Tensor:
        """What later features explain, on average; the mean square where examples cannot be told apart."""
        found = [self.sums[id(read), end] for end in self.ends[read.node] if (id(read), end) in self.sums]
        if not found:
            return torch.stack(self.squares[id(read)]).mean(0)
        return torch.stack([trajectory(*joint.finish(), ridge) for joint in found]).mean(0)

    def run_node(self, n: fx.Node) -> Any:
        sources = {source.name: source for source in n.all_input_nodes}
        for read in self.wanted.get(n.name, ()):
            self._read(read, self.env[sources[read.operand]])
        result = super().run_node(n)
        rows = self._examples(n.name, result) if n.name in self.later else None
        if rows is not None:
            self.tails[n.name] = _sketch(rows.flatten(1), self.width, self.seed + 1)
        return result

    def _examples(self, name: str, value: Tensor) -> Tensor | None:
        """``[examples, rows, ...]``; None where the first dimension does not count examples."""
        each = self.samples.rows(name, value, self.count)
        return value.double().reshape(len(value) // each, each, *value.shape[1:]) if each else None

    def _read(self, read: Read, value: Tensor) -> None:
        """Keep ``[examples, indices, POINTS]`` of this input where that can be, and the mean square."""
        rows = self._examples(read.operand, value) if read.dim else None
        if rows is not None:
            self.heads[id(read)] = _sketch(rows.movedim(read.dim + 1, 1).flatten(2), POINTS, self.seed)
        moved = value.double().movedim(read.dim, 0).flatten(1) if value.dim() > 1 else value.double()[:, None]
        self.squares[id(read)].append(moved.square().mean(1).cpu())


def _sketch(value: Tensor, width: int, seed: int) -> Tensor:
    """Random signed sums of the last dimension's entries, ``[..., width]``, that keep squared norms on average.

    Count sketch: Charikar et al., ICALP 2002.
    """
    if value.shape[-1] <= width:
        return F.pad(value, (0, width - value.shape[-1])).cpu()
    generator = torch.Generator().manual_seed(seed)
    buckets = torch.randint(0, width, value.shape[-1:], generator=generator)
    signs = torch.randint(0, 2, value.shape[-1:], generator=generator) * 2 - 1
    made = value.new_zeros(*value.shape[:-1], width)
    return made.index_add_(-1, buckets.to(value.device), value * signs.to(value)).cpu()
