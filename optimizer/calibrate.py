"""Statistics of activations on calibration inputs, streamed: sums are kept, activations are not."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tersor.convolution import Window, window
from tersor.errors import InputError, UsageError
from tersor.interface import Flat
from tersor.program import Program
from tersor.progress import Progress, Silent
from tersor.rewrite_values import arguments


@dataclass(frozen=True)
class Tap:
    """A dimension of a value, where a node reads it.

    Attributes:
        node: name of the node that reads.
        operand: name of the node whose result it reads; the same as ``node`` for its own result.
        dim: the dimension of the operand, negative from the end.
    """

    node: str
    operand: str
    dim: int


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a dimension of n indices holds, all other dimensions counted as samples; all tensors are float64.

    Attributes:
        count: samples in ``mean`` and ``square``.
        mean: E[x_i], shape [n].
        square: E[x_i^2], shape [n].
        gram: sum of x x^T over ``samples`` samples, shape [n, n]. For the input of a convolution x are the patches
            that its window reads, shape [groups, m, m] with m = channels of a group times points of the kernel, laid
            out as the weight. None where it was not asked for.
        samples: samples in ``gram``.
        gram_mean: mean of the same x, shape [n] or [groups, m].
    """

    count: int
    mean: Tensor
    square: Tensor
    gram: Tensor | None = None
    samples: int = 0
    gram_mean: Tensor | None = None

    @property
    def variance(self) -> Tensor:
        """E[x_i^2] - E[x_i]^2, shape [n]; never negative."""
        return (self.square - self.mean.square()).clamp_min(0)


def statistics(
    program: Program,
    taps: Iterable[Tap],
    inputs: Iterable[Flat],
    *,
    gram: bool = False,
    patches: bool = True,
    samples: int | None = 4096,
    precise: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[Tap, Statistics]:
    """Run the program on every input and sum up what the taps read.

    Args:
        program: any program.
        taps: dimensions to measure; one whose size differs from call to call cannot be.
        inputs: flat inputs, one after another; only one is alive at a time.
        gram: also sum x x^T.
        patches: for a convolution's input sum patches; False sums channels.
        samples: how many samples of an input go into ``gram`` at most, drawn with ``seed``; None takes all.
        precise: multiply in float64 rather than in float32 before the sums, which always are float64.
        seed: of the draw.
        progress: told of each input.

    Raises:
        UsageError: a tap names a node that is not there, or is no tensor of fixed size there.
        InputError: there are no inputs, or one does not fit the program.
    """
    nodes = {node.name: node for node in program.nodes}
    generator = torch.Generator().manual_seed(seed)
    sums = {tap: _Sums(tap, _checked(tap, nodes), gram, patches, samples, precise, generator) for tap in taps}
    watches: dict[str, list[_Watch]] = defaultdict(list)
    for tap, item in sums.items():
        watches[tap.node].append(_Watch(tap.operand, item.add))
    _run(program, watches, inputs, progress)
    return {tap: item.finish() for tap, item in sums.items()}


def observe(
    program: Program,
    adders: Mapping[str, Callable[[Tensor], None]],
    inputs: Iterable[Flat],
    *,
    progress: Progress | None = None,
) -> None:
    """Run the program on every input and show each named node's result to its function; errors as `statistics`."""
    nodes = {node.name: node for node in program.nodes}
    for name in adders:
        _checked(Tap(name, name, 0), nodes, whole=True)
    _run(program, {name: [_Watch(name, add)] for name, add in adders.items()}, inputs, progress)


def norms(
    program: Program, names: Iterable[str], inputs: Iterable[Flat], *, progress: Progress | None = None
) -> dict[str, float]:
    """The root mean square of each named node's result over all its elements and all inputs; errors as `statistics`."""
    totals: dict[str, list[float]] = {name: [0.0, 0.0] for name in names}

    def adder(name: str) -> Callable[[Tensor], None]:
        def add(value: Tensor) -> None:
            totals[name][0] += float(value.double().square().sum())
            totals[name][1] += value.numel()

        return add

    observe(program, {name: adder(name) for name in totals}, inputs, progress=progress)
    return {name: math.sqrt(square / count) if count else 0.0 for name, (square, count) in totals.items()}


def _checked(tap: Tap, nodes: dict[str, fx.Node], whole: bool = False) -> fx.Node:
    """The node that reads; raises UsageError where there is nothing to measure."""
    for name in (tap.node, tap.operand):
        if name not in nodes:
            raise UsageError(f"there is no node {name!r} to measure", "name a node of this program")
    reader, source = nodes[tap.node], nodes[tap.operand]
    if source is not reader and source not in reader.all_input_nodes:
        raise UsageError(f"node {tap.node!r} does not read {tap.operand!r}", "name one of its operands")
    value = source.meta.get("val")
    if not isinstance(value, Tensor):
        raise UsageError(f"node {tap.operand!r} is no tensor", "measure one of its results")
    if not whole and not -value.dim() <= tap.dim < value.dim():
        raise UsageError(f"node {tap.operand!r} has no dimension {tap.dim}", f"it has {value.dim()}")
    if not whole and not isinstance(value.shape[tap.dim], int):
        raise UsageError(f"dimension {tap.dim} of {tap.operand!r} differs from call to call", "measure a fixed one")
    return reader


@dataclass(frozen=True)
class _Watch:
    operand: str
    add: Callable[[Tensor], None]


class _Watcher(fx.Interpreter):
    """Shows values to those who sum them up."""

    def __init__(self, program: Program, watches: dict[str, list[_Watch]]) -> None:
        super().__init__(program.module(), garbage_collect_values=True)
        self.watches = watches

    def run_node(self, n: fx.Node) -> Any:
        given = {source.name: source for source in n.all_input_nodes}
        for watch in self.watches.get(n.name, ()):
            if watch.operand != n.name:
                watch.add(self.env[given[watch.operand]])
        result = super().run_node(n)
        for watch in self.watches.get(n.name, ()):
            if watch.operand == n.name:
                watch.add(result)
        return result


def _run(program: Program, watches: dict[str, list[_Watch]], inputs: Iterable[Flat], progress: Progress | None) -> None:
    progress = progress or Silent()
    progress.stage("calibrate", len(inputs) if isinstance(inputs, Sized) else None)
    runner = _Watcher(program, watches)
    count = 0
    with torch.no_grad():
        for flat in inputs:
            program.check_inputs(flat)
            runner.run(*flat)
            count += 1
            progress.advance()
    if not count:
        raise InputError("there are no calibration inputs", "give at least one")


class _Sums:
    """The running sums of one tap."""

    def __init__(
        self, tap: Tap, reader: fx.Node, gram: bool, patches: bool, samples: int | None, precise: bool,
        generator: torch.Generator,
    ) -> None:  # fmt: skip
        self.dim, self.limit, self.generator = tap.dim, samples, generator
        self.gram = gram
        self.window = plain_window(reader) if gram and patches and _is_source(reader, tap.operand) else None
        self.dtype = torch.float64 if precise else torch.float32
        self.count = self.samples = 0
        self.total: Any = 0
        self.square: Any = 0
        self.product: Any = 0
        self.product_total: Any = 0

    def add(self, value: Tensor) -> None:
        value = value.to(self.dtype) if value.dtype != torch.float64 else value
        rows = value.movedim(self.dim, -1).flatten(0, -2) if value.dim() > 1 else value[None]
        self.count += len(rows)
        self.total = self.total + rows.sum(0, dtype=torch.float64)
        self.square = self.square + rows.square().sum(0, dtype=torch.float64)
        if self.gram:
            self._add_products(self._chosen(rows)[:, None] if self.window is None else self._patches(value))

    def _chosen(self, rows: Tensor) -> Tensor:
        return rows if self.limit is None or len(rows) <= self.limit else rows[self._draw(len(rows), rows.device)]

    def _draw(self, total: int, device: torch.device) -> Tensor:
        return torch.randperm(total, generator=self.generator)[: self.limit].sort().values.to(device)

    def _patches(self, value: Tensor) -> Tensor:
        """Shape [samples, groups, m]; only those that are chosen are ever laid out."""
        assert self.window is not None
        views = self.window.views(value)
        places = views.shape[: 1 + self.window.spatial]
        total = math.prod(places)
        if self.limit is None or total <= self.limit:
            chosen = views.flatten(0, self.window.spatial)
        else:
            chosen = views[torch.unravel_index(self._draw(total, value.device), places)]
        return chosen.reshape(len(chosen), self.window.groups, -1)

    def _add_products(self, rows: Tensor) -> None:
        grouped = rows.transpose(0, 1)
        self.samples += len(rows)
        self.product = self.product + (grouped.mT @ grouped).double()
        self.product_total = self.product_total + rows.sum(0, dtype=torch.float64)

    def finish(self) -> Statistics:
        mean, square = self.total / max(self.count, 1), self.square / max(self.count, 1)
        if not self.gram:
            return Statistics(self.count, mean, square)
        gram, total = self.product, self.product_total / max(self.samples, 1)
        if self.window is None:
            gram, total = gram[0], total[0]
        return Statistics(self.count, mean, square, gram, self.samples, total)


def plain_window(node: fx.Node) -> Window | None:
    """The window of a convolution; None for a transposed one, whose inputs are not windows, and for any other node."""
    found = window(node)
    return None if found is None or found.transposed else found


def _is_source(reader: fx.Node, operand: str) -> bool:
    source = arguments(reader).get("input")
    return isinstance(source, fx.Node) and source.name == operand
