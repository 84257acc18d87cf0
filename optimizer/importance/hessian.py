"""Importance from curvature: the trace of the Hessian over an index's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from tersor.axes.analysis import Axes
from tersor.axes.groups import Group, Member
from tersor.context import Context
from tersor.importance.criterion import Scores, calibration
from tersor.importance.gates import gradients, strided
from tersor.importance.layers import energy
from tersor.importance.losses import Loss, projection
from tersor.importance.samples import batch_size
from tersor.importance.slices import member_sums, sides, total
from tersor.interface import Flat
from tersor.program import Program


@dataclass(frozen=True)
class Hessian:
    """Mean curvature of an index's weights times their squared norm.

    Hessian-Aware Pruning and Optimal Neural Implant, Yu et al., WACV 2022, arXiv:2101.08940, with the trace estimated
    by Hutchinson's method (v^T H v for random signs v). The weights are those that read the index, or those that make
    it where none reads it; several count one by one.

    Attributes:
        loss: of flat outputs and inputs, summed over examples; its Hessian takes a second backward pass, and an
            estimate by random vectors over all weights at once needs many draws. None takes half the squared distance
            of the output from what it is, which needs no labels: its Hessian is the Gauss-Newton matrix J^T J, whose
            trace random vectors of the output estimate with one backward pass and far less noise.
        draws: random vectors per calibration input.
        batches: calibration inputs to use; None uses all.
    """

    loss: Loss | None = None
    draws: int = 4
    batches: int | None = None

    def __call__(self, program: Program, axes: Axes, groups: Sequence[Group], context: Context) -> Scores:
        """Half the mean curvature times the squared norm."""
        found = sides(program)
        chosen = {
            group.axis: found.consumers(group) or found.producers(group) or list(group.members) for group in groups
        }
        names = _trained(program, [member for rows in chosen.values() for member in rows])
        inputs = calibration(program, context, self.batches)
        generator = torch.Generator().manual_seed(context.seed)
        if self.loss is None:
            traces = gauss_newton(program, names, inputs, self.draws, generator)
        else:
            traces = diagonal(program, names, inputs, self.loss, self.draws, generator)
        return {group.axis: _score(program, group, chosen[group.axis], traces) for group in groups}


def hessian(trace: Tensor, norm: Tensor, count: Tensor) -> Tensor:
    """Trace of the Hessian over an index's weights, divided by twice their number, times their squared norm.

    Args:
        trace: trace over each index, shape [n].
        norm: squared norm of the weights of each index, shape [n].
        count: number of weights of each index, shape [n].

    >>> hessian(torch.tensor([4.0]), torch.tensor([3.0]), torch.tensor([2.0])).tolist()
    [3.0]
    """
    return trace / (2 * count.clamp_min(1)) * norm


def diagonal(
    program: Program, names: Sequence[str], inputs: Sequence[Flat], loss: Loss, draws: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Hutchinson's estimate of the diagonal of the Hessian by each weight, per example; exact where it is diagonal.

    Raises:
        TersorError: no second derivative can be computed.
    """
    totals = _zeros(program, names)
    examples = 0
    for flat in inputs:
        examples += batch_size(flat)
        leaves, runner = _leaves(program, names)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            first = gradients(loss(runner.outputs(flat), flat), leaves, graph=True)
        for _ in range(draws):
            for name, value in _curvature(first, leaves, generator).items():
                totals[name] += value / draws
    return {name: value / max(examples, 1) for name, value in totals.items()}


def gauss_newton(
    program: Program, names: Sequence[str], inputs: Sequence[Flat], draws: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Estimate of the diagonal of J^T J by each weight, per example, J being the derivative of the outputs.

    Outputs are relative to their own energy. It is the mean of ``(J^T r)^2`` for random normal r.

    Raises:
        TersorError: no derivative can be computed.
    """
    totals = _zeros(program, names)
    examples, loss = 0, projection(generator)
    for flat in inputs:
        examples += batch_size(flat)
        leaves, runner = _leaves(program, names)
        with torch.enable_grad():
            outputs = runner.outputs(flat)
        for draw in range(draws):
            with torch.enable_grad():
                found = gradients(loss(outputs, flat), leaves, retain=draw + 1 < draws)
            for name, value in found.items():
                totals[name] += value.square() / draws
    return {name: value / max(examples, 1) for name, value in totals.items()}


def _zeros(program: Program, names: Sequence[str]) -> dict[str, Tensor]:
    return {name: torch.zeros(program.weights[name].shape, dtype=torch.float64) for name in names}


def _leaves(program: Program, names: Sequence[str]) -> tuple[dict[str, Tensor], _Leaves]:
    leaves = {name: program.weights[name].detach().clone().requires_grad_() for name in names}
    return leaves, _Leaves(program, leaves)


def _curvature(first: Mapping[str, Any], leaves: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """``v * (H v)`` for one random sign vector over all weights together."""
    signs = {n: (torch.randint(0, 2, leaf.shape, generator=generator) * 2 - 1).to(leaf) for n, leaf in leaves.items()}
    with torch.enable_grad():
        parts = [(first[name] * sign).sum() for name, sign in signs.items() if first[name] is not None]
        inner = torch.stack(parts).sum() if parts else torch.zeros(())
        if not inner.requires_grad:
            return {name: torch.zeros(leaf.shape, dtype=torch.float64) for name, leaf in leaves.items()}
        second = gradients(inner, leaves, retain=True)
    return {name: value * signs[name].double().cpu() for name, value in second.items()}


class _Leaves(fx.Interpreter):
    """Runs the graph with some weights as leaves of autograd."""

    def __init__(self, program: Program, leaves: Mapping[str, Tensor]) -> None:
        super().__init__(program.module(), garbage_collect_values=True)
        self.program, self.leaves = program, leaves

    def outputs(self, flat: Flat) -> Flat:
        """The outputs, differentiable by the leaves."""
        self.program.check_inputs(flat)
        return tuple(self.run(*flat))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().call_function(strided(target), args, kwargs)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        found = self.leaves.get(str(target))
        return super().get_attr(target, args, kwargs) if found is None else found


def _trained(program: Program, members: Sequence[Member]) -> list[str]:
    """Distinct floating weights, in order."""
    names = dict.fromkeys(member.weight for member in members)
    return [name for name in names if program.weights[name].is_floating_point()]


def _score(program: Program, group: Group, members: Sequence[Member], traces: Mapping[str, Tensor]) -> Tensor:
    rows = [member for member in members if member.weight in traces]
    trace = member_sums(program, group.axis, rows, lambda name, _: traces[name])
    norm = member_sums(program, group.axis, rows, lambda _, weight: energy(weight))
    count = member_sums(program, group.axis, rows, lambda _, weight: torch.ones(weight.shape, dtype=torch.float64))
    parts = [hessian(*part) for part in zip(trace, norm, count, strict=True)]
    return total(parts, group.size)
