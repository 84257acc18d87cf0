"""Bias and batch-norm re-estimation: the first two moments of each channel brought back to the original's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from tersor.program import Program
from tersor.recover.least_squares import UNHARMED, LeastSquares
from tersor.recover.lockstep import Meeting
from tersor.recover.records import LayerRecord
from tersor.recover.samples import Samples
from tersor.rewrite_arguments import set_constant
from tersor.rewrite_values import arguments, key

BIAS_ONLY = (math.inf,)

_NORMS = ("batch_norm", "_native_batch_norm_legit_no_training")


def bias_re_estimation(seed: int = 0) -> LeastSquares:
    """Gives each damaged layer the bias with which every channel has the original's mean (Nagel et al., ICCV 2019)."""
    return LeastSquares(dampings=BIAS_ONLY, seed=seed)


@dataclass(frozen=True)
class Moments:
    """Mean and variance of each channel, float64."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, values: Sequence[Tensor]) -> Moments:
        """Over batches of shape [examples, channels, ...]; values that are not finite do not count.

        >>> Moments.of([torch.tensor([[1.0], [3.0]])]).variance.item()
        1.0
        """
        rows = torch.cat([value.movedim(1, -1).flatten(0, -2) for value in values]).double()
        good = rows.isfinite()
        count = good.sum(0).clamp(min=1)
        rows = rows.where(good, 0.0)
        mean = rows.sum(0) / count
        return cls(mean, ((rows - mean).square() * good).sum(0) / count)

    def distance(self, other: Moments) -> float:
        """Squared 2-Wasserstein distance between normal distributions with these moments, summed over channels."""
        deviations = self.variance.sqrt() - other.variance.sqrt()
        return float(((self.mean - other.mean).square() + deviations.square()).sum())

    @property
    def energy(self) -> float:
        """Mean square, summed over channels."""
        return float((self.mean.square() + self.variance).sum())


def statistics(inputs: Moments, wanted: Moments, scale: Tensor, shift: Tensor, epsilon: float) -> Moments:
    """Running mean and variance with which a batch norm maps ``inputs`` to ``wanted``.

    ``wanted`` are the moments of the original's batch norm on the same examples. Where the original's running
    statistics are those of the examples, the result is the plain re-estimate, the moments of ``inputs``; where the
    examples are few or unlike the training data, their peculiarity cancels (cf. REPAIR, Jordan et al., ICLR 2023).
    NaN for channels that have no scale or do not vary.
    """
    spread = scale.abs() * inputs.variance.sqrt() / wanted.variance.sqrt()
    mean = inputs.mean - spread * (wanted.mean - shift) / scale
    variance = spread.square() - epsilon
    usable = variance.isfinite() & mean.isfinite() & (variance > 0)
    return Moments(mean.where(usable, math.nan), variance.where(usable, math.nan))


class BatchNorm:
    """Gives each batch norm behind damage the statistics that bring back the original's moments."""

    def applies(self, node: fx.Node) -> bool:
        """Whether a node is a batch norm with constant statistics."""
        return key(node) in _NORMS and not arguments(node).get("training")

    def __call__(self, program: Program, meeting: Meeting, samples: Samples) -> LayerRecord | None:
        """Repair one batch norm in place; None where it is none, or its moments are the original's."""
        node = meeting.node
        targets = meeting.targets() if self.applies(node) else None
        if targets is None:
            return None
        norm = _Norm.of(program, node)
        if norm is None:
            return LayerRecord(node.name, "batch-norm", math.nan, math.nan, reason="it has no constant statistics")
        inputs = meeting.damaged.of(arguments(node)["input"])
        fit = len(samples.fit)
        new = norm.towards(Moments.of(inputs[:fit]), Moments.of(targets[:fit]))
        judge = slice(fit, None) if samples.separate else slice(None)
        seen, wanted = Moments.of(inputs[judge]), Moments.of(targets[judge])
        before, after = (n.output(seen).distance(wanted) / max(wanted.energy, 1e-30) for n in (norm, new))
        if before <= UNHARMED:
            return None
        record = LayerRecord(node.name, "batch-norm", before, after, sum(len(value) for value in inputs[:fit]))
        if not after < before:
            return replace(record, reason="new statistics are no nearer on inputs that they were not taken from")
        set_constant(program, node, "running_mean", new.running.mean.to(norm.dtype))
        set_constant(program, node, "running_var", new.running.variance.to(norm.dtype))
        meeting.changed = True
        return record


@dataclass(frozen=True)
class _Norm:
    """A batch norm's constants in double precision."""

    running: Moments
    scale: Tensor
    shift: Tensor
    epsilon: float
    dtype: torch.dtype

    @classmethod
    def of(cls, program: Program, node: fx.Node) -> _Norm | None:
        given = arguments(node)
        found = {name: program.weight(given[name]) for name in ("running_mean", "running_var", "weight", "bias")}
        mean, variance = found["running_mean"], found["running_var"]
        computed = any(found[name] is None and given[name] is not None for name in found)
        if computed or mean is None or variance is None:
            return None
        scale = torch.ones_like(mean) if found["weight"] is None else found["weight"]
        shift = torch.zeros_like(mean) if found["bias"] is None else found["bias"]
        running = Moments(mean.double(), variance.double())
        return cls(running, scale.double(), shift.double(), float(given["eps"]), mean.dtype)

    def towards(self, inputs: Moments, wanted: Moments) -> _Norm:
        """With new statistics wherever a channel has some."""
        new = statistics(inputs, wanted, self.scale, self.shift, self.epsilon)
        known = new.mean.isfinite()
        mean, variance = new.mean.where(known, self.running.mean), new.variance.where(known, self.running.variance)
        return replace(self, running=Moments(mean, variance))

    def output(self, inputs: Moments) -> Moments:
        """The moments behind it."""
        factor = self.scale / (self.running.variance + self.epsilon).sqrt()
        mean = (inputs.mean - self.running.mean) * factor + self.shift
        return Moments(mean, inputs.variance * factor.square())
