"""Reconstruction of damaged layers: the weights with which they come nearest to the original's own outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from tersor.program import Program
from tersor.recover.layers import (
    Layer,
    add_to_bias,
    add_to_weight,
    as_systems,
    bias_unwritable,
    input_rows,
    layer_of,
    output_rows,
    positions,
    unwritable,
)
from tersor.recover.lockstep import Meeting
from tersor.recover.records import LayerRecord
from tersor.recover.samples import HELD_OUT, Samples
from tersor.recover.solve import DAMPINGS, Fit, Rows, refitted, ridge
from tersor.rewrite_values import arguments, key
from tersor.sparse.pattern import support

ROWS = 16384
"""Rows that a layer is fitted on at most."""

_ROWS_BYTES = 1 << 28
UNHARMED = 1e-10
"""Share of the energy below which a squared error counts as rounding."""


@dataclass
class LeastSquares:
    """Gives each damaged layer the weights that minimise ``|original output - layer(damaged input)|²``.

    In execution order, so that each layer sees the inputs that the repaired layers before it make (as ThiNet, Luo et
    al., ICCV 2017, and channel pruning by He et al., ICCV 2017, with the original's outputs as target). A layer whose
    result is added to another activation also makes up for what that one lacks. Zeros of a pruned weight stay.

    Attributes:
        dampings: strengths of the ridge to choose from; only infinity re-estimates the bias alone.
        rows: rows that a layer is fitted on at most.
        seed: of the choice of positions.
        refit: whether a layer that gained is fitted once more on all rows, with the damping that was found; then
            nothing is left to judge the whole program on.
    """

    dampings: Sequence[float] = DAMPINGS
    rows: int = ROWS
    seed: int = 0
    refit: bool = False

    def applies(self, node: fx.Node) -> bool:
        """Whether a node is a layer."""
        return layer_of(node) is not None

    def __call__(self, program: Program, meeting: Meeting, samples: Samples) -> LayerRecord | None:
        """Repair one layer in place; None where it is not a layer, or not damaged."""
        layer = layer_of(meeting.node)
        targets = meeting.targets() if layer is not None else None
        if layer is None or targets is None:
            return None
        targets = _with_residual(meeting, targets)
        if all(_energy(t - y) <= UNHARMED * _energy(t) for t, y in zip(targets, meeting.outputs, strict=True)):
            return None
        weightless, biasless = unwritable(program, layer), bias_unwritable(program, layer)
        dampings = [d for d in self.dampings if not weightless or math.isinf(d)]
        method = "bias" if all(map(math.isinf, dampings)) else "least-squares"
        if not dampings or (method == "bias" and biasless):
            return _refused(meeting, method, f"{weightless} {biasless}".strip())
        fit, judge, energy = self._rows(layer, meeting, targets, samples)
        if len(fit) < 2 or len(judge) < 1:
            return _refused(meeting, method, "too few finite values")
        kept = _support(program, layer)
        found = ridge(fit, judge, dampings, biased=not biasless, support=kept)
        if self.refit and found.improved:
            found = refitted(found, Rows.joined(fit, judge), biased=not biasless, support=kept)
        before, after = float(found.before.sum()) / energy, float(found.after.sum()) / energy
        return _apply(program, meeting, layer, found, LayerRecord(meeting.node.name, method, before, after, len(fit)))

    def _rows(
        self, layer: Layer, meeting: Meeting, targets: Sequence[Tensor], samples: Samples
    ) -> tuple[Rows, Rows, float]:
        """Rows to fit on, rows to judge on, and the energy of what is wanted on the latter."""
        made = self._chosen(layer, meeting, targets)
        if samples.separate:
            fit, judge = made[: len(samples.fit)], made[len(samples.fit) :]
        else:
            cuts = [max(1, round((1 - HELD_OUT) * len(rows))) for rows, _ in made]
            fit = [(Rows(r.inputs[:c], r.residual[:c]), t[:c]) for (r, t), c in zip(made, cuts, strict=True)]
            judge = [(Rows(r.inputs[c:], r.residual[c:]), t[c:]) for (r, t), c in zip(made, cuts, strict=True)]
        energy = sum(_energy(wanted) for _, wanted in judge)
        return _stacked(fit), _stacked(judge), max(energy, torch.finfo(torch.float32).tiny)

    def _chosen(self, layer: Layer, meeting: Meeting, targets: Sequence[Tensor]) -> list[tuple[Rows, Tensor]]:
        """For each batch the same share of its positions: their rows, and what is wanted there."""
        counts = [positions(layer, output) for output in meeting.outputs]
        output = meeting.outputs[0]
        one = torch.zeros(min(1, counts[0]), dtype=torch.int64, device=output.device)
        width = input_rows(layer, meeting.damaged.value(layer.source, 0), output, one).numel()
        most = min(self.rows, _ROWS_BYTES // (4 * max(width, 1)))
        share = min(1.0, most / max(sum(counts), 1))
        generator = torch.Generator().manual_seed(self.seed)
        made = []
        for batch, (wanted, got) in enumerate(zip(targets, meeting.outputs, strict=True)):
            at = torch.randperm(counts[batch], generator=generator)[: math.ceil(share * counts[batch])].sort().values
            at = at.to(got.device)
            inputs = input_rows(layer, meeting.damaged.value(layer.source, batch), got, at)
            aim = output_rows(layer, wanted, at)
            made.append((Rows(inputs, aim - output_rows(layer, got, at)), aim))
        return made


def _support(program: Program, layer: Layer) -> Tensor | None:
    """The weights of a pruned layer that may change, [groups, inputs, outputs]; None where all may."""
    value = program.weight(layer.weight)
    kept = None if value is None else support(value)
    return None if kept is None else as_systems(layer, kept)


def _stacked(parts: Sequence[tuple[Rows, Tensor]]) -> Rows:
    return Rows.joined(*(rows for rows, _ in parts)).finite()


def _with_residual(meeting: Meeting, targets: list[Tensor]) -> list[Tensor]:
    """Targets that also make up for the other operand, where the result is only read by a sum."""
    users = list(meeting.node.users)
    if len(users) != 1 or key(users[0]) != "add" or arguments(users[0]).get("alpha", 1) != 1:
        return targets
    others = [source for source in users[0].args if isinstance(source, fx.Node) and source is not meeting.node]
    if len(others) != 1 or others[0] not in meeting.damaged.values:
        return targets
    wanted, got = meeting.wanted(others[0]), meeting.damaged.of(others[0])
    if wanted is None or any(t.shape != w.shape for t, w in zip(targets, wanted, strict=True)):
        return targets
    return [t + (w - g) for t, w, g in zip(targets, wanted, got, strict=True)]


def _energy(value: Tensor) -> float:
    return float(value[value.isfinite()].double().square().sum())


def _refused(meeting: Meeting, method: str, reason: str) -> LayerRecord:
    return LayerRecord(meeting.node.name, method, math.nan, math.nan, reason=reason)


def _apply(program: Program, meeting: Meeting, layer: Layer, found: Fit, record: LayerRecord) -> LayerRecord:
    """Write what improved into the program, which must not be the caller's."""
    if not found.improved:
        return replace(record, reason="no update lowers the error on inputs that it was not fitted on")
    if found.update.any():
        add_to_weight(program, layer, found.update)
    if found.shift.any():
        add_to_bias(program, layer, found.shift)
    meeting.changed = True
    return replace(record, damping=float(found.damping.nan_to_num(0.0, posinf=math.inf).max()))
