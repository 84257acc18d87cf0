"""Gates: factors of one at every read of a group, whose gradients say what removing each index would do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from tersor.axes.analysis import Axes
from tersor.axes.groups import Group
from tersor.axes.terms import Axis
from tersor.errors import TersorError
from tersor.importance.losses import Loss
from tersor.importance.reads import Read, reads
from tersor.importance.samples import Samples, batch_size, samples
from tersor.interface import Flat
from tersor.program import Program


def contributions(
    program: Program, axes: Axes, groups: Sequence[Group], inputs: Sequence[Flat], loss: Loss, draws: int = 1
) -> Iterator[dict[Axis, Tensor]]:
    """For each input and draw the derivative of the loss by each index's presence, one example at a time.

    Every read of an index is multiplied by a gate of one, with one gate per example and index. The derivative by the
    gate is the sum of weight times gradient over the slices of the consumers' weights that read the index (and of
    activation times gradient where two activations are multiplied), so it is the first-order change of the loss
    when the index stays, instead of being zeroed. One backward pass gives it for every example and every group, where
    gradients of weights are sums over the examples, in which opposite signs cancel.

    A group that is never summed over, such as routed experts, is gated in the matrices that hold it. Values whose first
    dimension does not count examples are gated as a whole, under the first example.

    Args:
        program: differentiable where it matters.
        axes: its analysis.
        groups: whose indices.
        inputs: flat inputs.
        loss: summed over examples.
        draws: how often the loss is taken of one input, for random losses.

    Yields:
        For each axis the derivatives, shape [examples, group.size], float64 on the CPU.

    Raises:
        TersorError: no gradient can be computed.
    """
    gated = _gated(program, axes, groups)
    runner = _Gated(program, gated, samples(program, axes))
    for flat in inputs:
        program.check_inputs(flat)
        count = batch_size(flat)
        gates = {group.axis: torch.ones(count, group.size, dtype=torch.float64, requires_grad=True) for group in groups}
        with torch.enable_grad():
            outputs = runner.outputs(flat, gates, count)
        for draw in range(draws):
            with torch.enable_grad():
                yield gradients(loss(outputs, flat), gates, retain=draw + 1 < draws)


def gradients(loss: Tensor, leaves: Mapping[Any, Tensor], *, retain: bool = False, graph: bool = False) -> Any:
    """Gradients by key, zeros where the loss does not depend on a leaf; float64 on the CPU unless ``graph``."""
    try:
        if not loss.requires_grad:
            raise RuntimeError("the loss does not depend on any weight through differentiable operators")
        found = torch.autograd.grad(
            loss, list(leaves.values()), retain_graph=retain or graph, create_graph=graph, allow_unused=True
        )
    except RuntimeError as error:
        raise TersorError(
            f"no gradient of the program: {str(error).splitlines()[0]}",
            "take a criterion without gradients, such as 'activation', 'surgeon' or 'magnitude'",
        ) from error
    if graph:
        return dict(zip(leaves, found, strict=True))
    pairs = zip(leaves.items(), found, strict=True)
    return {key: (torch.zeros_like(leaf) if grad is None else grad).double().cpu() for (key, leaf), grad in pairs}


def strided(target: Any) -> Any:
    """An operator that accepts any memory layout: a gate or another attention kernel may change that of a result."""
    return torch.ops.aten.reshape.default if target is torch.ops.aten.view.default else target


def _gated(program: Program, axes: Axes, groups: Sequence[Group]) -> dict[str, list[tuple[Axis, Read]]]:
    """What to gate at each node."""
    found: dict[str, list[tuple[Axis, Read]]] = defaultdict(list)
    every = reads(program, axes)
    for group in groups:
        for read in every.get(group.axis) or _held(program, axes, group):
            found[read.node].append((group.axis, read))
    return found


def _held(program: Program, axes: Axes, group: Group) -> Iterator[Read]:
    """The matrices that hold an index, as if each were read right there."""
    held = {(member.weight, member.dim): member.term for member in group.members}
    for node in program.graph.find_nodes(op="get_attr"):
        for (name, dim), term in held.items():
            weight = program.weights[name]
            if str(node.target) == name and weight.dim() > 1 and weight.is_floating_point():
                yield Read(node.name, node.name, dim, term)


class _Gated(fx.Interpreter):
    """Runs the graph with gates."""

    def __init__(self, program: Program, gated: dict[str, list[tuple[Axis, Read]]], samples: Samples) -> None:
        super().__init__(program.module(), garbage_collect_values=True)
        self.gated, self.samples = gated, samples
        self.gates: Mapping[Axis, Tensor] = {}
        self.count = 1
        self.owned = {(axis, id(read)): read.owners(axis) for rows in gated.values() for axis, read in rows}

    def outputs(self, flat: Flat, gates: Mapping[Axis, Tensor], count: int) -> Flat:
        """The outputs, differentiable by the gates."""
        self.gates, self.count = gates, count
        return tuple(self.run(*flat))

    def run_node(self, n: fx.Node) -> Any:
        rows = self.gated.get(n.name)
        if not rows:
            return super().run_node(n)
        before = {read.operand for _, read in rows}
        args, kwargs = fx.node.map_arg(
            (n.args, n.kwargs), lambda source: self._through(rows, source.name, self.env[source], before)
        )
        result = getattr(self, n.op)(n.target, args, kwargs)
        return self._through(rows, n.name, result, before)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().call_function(strided(target), args, kwargs)

    def _through(self, rows: list[tuple[Axis, Read]], name: str, value: Any, gated: set[str]) -> Any:
        if name not in gated:
            return value
        for axis, read in rows:
            if read.operand == name:
                value = value * self._factor(axis, read, name, value)
        return value

    def _factor(self, axis: Axis, read: Read, name: str, value: Tensor) -> Tensor:
        """The gate in the shape of the value."""
        gate, owned = self.gates[axis], self.owned[axis, id(read)]
        each = self.samples.rows(name, value, self.count) if read.dim else None
        rows = gate[:1] if each is None else gate.repeat_interleave(each, 0)
        open_ = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
        shape = [1] * value.dim()
        shape[read.dim] = len(owned)
        if each is not None:
            shape[0] = len(rows)
        # The last column is the gate of nobody, where -1 points.
        return open_[:, owned].reshape(shape).to(value)
