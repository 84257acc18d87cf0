"""AdaRound: each weight rounded up or down, learnt together so that the errors of the outputs cancel.

Weights and Gram matrices are as in `tersor.quant.levels`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.factor.least_squares import residual
from tersor.progress import Progress, Silent
from tersor.quant.grid import Grid, grid
from tersor.quant.levels import Levels, better, checked, nearest, wide

LOW, HIGH = -0.1, 1.1
"""The sigmoid is stretched to this range and cut at 0 and 1, so that both are reached (equation 23 of the paper)."""
SHARP, SOFT = 20.0, 2.0
"""The exponent of the penalty at the start and at the end: at first only what is near 0 or 1 is held there."""
FREE = 0.2
"""Share of the iterations without the penalty."""


@dataclass(frozen=True)
class Course:
    """How long and how hard to learn.

    Attributes:
        iterations: steps of Adam, each one product of the weight's size with the Gram matrix; 0 learns nothing.
        rate: its learning rate.
        penalty: weight of the mean penalty of an output's undecided weights, where nearest rounding has an error of 1.
    """

    iterations: int = 1000
    rate: float = 0.02
    penalty: float = 10.0

    def __post_init__(self) -> None:
        if self.iterations < 0 or not self.rate > 0 or not self.penalty > 0:
            raise UsageError(f"AdaRound cannot learn with {self}", "give iterations from 0 on, and positive numbers")


@dataclass(frozen=True, eq=False)
class _Problem:
    """What is learnt, in float32 and in units of the largest step of each output; shapes broadcast to [..., out, in].

    Attributes:
        rest: the weight above its level below, in steps: 0 to 1 but where it is clipped.
        size: steps, 0 to 1.
        gram: [..., in, in].
        share: one over the error of nearest rounding, [..., out, 1]; 0 where that is 0.
        bound: zero, clipped, or at the top of the grid: there is nothing to choose.
    """

    rest: Tensor
    size: Tensor
    gram: Tensor
    share: Tensor
    bound: Tensor

    def slope(self, up: Tensor) -> Tensor:
        """Derivative of the relative errors by how far up each weight goes."""
        gap = (up.masked_fill(self.bound, 0) - self.rest) * self.size
        return (2 * self.share * self.size * (gap @ self.gram)).masked_fill(self.bound, 0)


def adaround(
    weight: Tensor,
    gram: Tensor,
    scale: Tensor,
    zero: Tensor,
    on: str | Grid,
    *,
    course: Course | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Levels:
    """Learn for every weight whether it is rounded up or down (Nagel et al., ICML 2020, arXiv:2004.10568).

    The error of the outputs depends on the inputs only through their Gram matrix, so no inputs are needed. Each output
    is its own problem, and its error counts relative to that of nearest rounding. What was learnt is improved by
    `descend`, which goes beyond the paper; an output for which nearest rounding is as good keeps it, and so does every
    input that was always zero. Weights that are zero stay zero, so that sparse layers stay sparse.

    Args:
        weight: [..., out, in].
        gram: [..., in, in], sum or mean of ``x x^T``.
        scale, zero: [..., out, n] for groups of ``in / n`` inputs, as from `min_max` or `clip`.
        on: the grid.
        course: None is the default one.
        seed: of the small differences that tell apart inputs which are always the same.
        progress: takes notice of each iteration; its stage is the caller's.

    Raises:
        UsageError: shapes do not fit, or the weight is not finite.
        InputError: the Gram matrix is not finite.
    """
    on, course, (real, gram) = grid(on), course or Course(), checked(weight, gram)
    plain = nearest(real, scale, zero, on)
    step, origin = wide(scale, real.shape[-1]).double(), wide(zero, real.shape[-1])
    below = (real / step).floor() + origin
    up = _learn(_posed(real, gram, plain, step, below, on), course, seed, progress or Silent())
    level = (below + (up > 0.5)).clamp(on.lowest, on.highest).to(on.dtype)
    dead = (gram.diagonal(dim1=-2, dim2=-1) == 0)[..., None, :]
    learnt = Levels(torch.where(dead, plain.level, level), scale, zero)
    return better(real, gram, plain, descend(real, gram, better(real, gram, plain, learnt), on))


def _posed(weight: Tensor, gram: Tensor, plain: Levels, step: Tensor, below: Tensor, on: Grid) -> _Problem:
    unit = step.amax(-1, keepdim=True)
    energy = gram.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    energy = torch.where(energy > 0, energy, 1.0)
    reference = residual(weight / unit, plain.values.double() / unit, gram / energy)[..., None]
    # Beyond this nothing is left to gain, and squares of slopes would leave float32.
    share = torch.where(reference > 0, 1 / reference, 0.0).clamp_max(1e15)
    rest = weight / step - (below.clamp(on.lowest, on.highest) - wide(plain.zero, weight.shape[-1]))
    bound = (below < on.lowest) | (below >= on.highest) | (weight == 0)
    return _Problem(rest.float(), (step / unit).float(), (gram / energy).float(), share.float(), bound)


def _learn(problem: _Problem, course: Course, seed: int, progress: Progress) -> Tensor:
    """How far up each weight goes, near 0 or 1, [..., out, in]."""
    logits = torch.logit((problem.rest.clamp(0, 1) - LOW) / (HIGH - LOW))
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))
    logits = logits + 1e-3 * noise.to(logits.device)
    adam = torch.optim.Adam([logits], lr=course.rate)
    weight_of_penalty = course.penalty / logits.shape[-1]
    for iteration in range(course.iterations):
        soft = torch.sigmoid(logits)
        up = soft * (HIGH - LOW) + LOW
        slope = problem.slope(up.clamp(0, 1))
        done = (iteration / course.iterations - FREE) / (1 - FREE)
        if done >= 0:
            side, power = 2 * up.clamp(0, 1) - 1, SOFT + (SHARP - SOFT) * (1 - done)
            slope -= weight_of_penalty * 2 * power * side.sign() * side.abs().pow(power - 1)
        logits.grad = (slope * soft * (1 - soft) * (HIGH - LOW)).masked_fill((up <= 0) | (up >= 1), 0)
        adam.step()
        progress.advance()
    return torch.sigmoid(logits) * (HIGH - LOW) + LOW


def descend(weight: Tensor, gram: Tensor, levels: Levels, on: str | Grid, *, steps: int | None = None) -> Levels:
    """Move single weights by one level while that lowers an output's error, each time that which lowers it most.

    Weights that are zero stay where they are.

    Args:
        weight: [..., out, in].
        gram: [..., in, in].
        levels: where to start, such as what `gptq` found; scales stay.
        on: the grid.
        steps: weights that are moved per output at most; None is as many as there are inputs.

    Raises:
        UsageError, InputError: as `adaround`.
    """
    on, (real, gram) = grid(on), checked(weight, gram)
    step, level = wide(levels.scale, real.shape[-1]).double(), levels.level.to(torch.int32)
    gap = levels.values.double() - real
    pull, own = gap @ gram, step.square() * gram.diagonal(dim1=-2, dim2=-1)[..., None, :]
    worth_it = -1e-9 * (pull * gap).sum(-1, keepdim=True).abs()
    for _ in range(real.shape[-1] if steps is None else steps):
        way = -pull.sign()
        outside = (level + way < on.lowest) | (level + way > on.highest) | (real == 0)
        gain, place = (own - 2 * step * pull.abs()).masked_fill(outside, 0).min(-1, keepdim=True)
        moving = gain < worth_it
        if not bool(moving.any()):
            break
        way = way.gather(-1, place) * moving
        level.scatter_add_(-1, place, way.int())
        pull += way * step.gather(-1, place) * gram.gather(-2, place.expand(real.shape))
    return Levels(level.to(on.dtype), levels.scale, levels.zero)
