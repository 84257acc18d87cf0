"""Distillation: the damaged program learns the original's outputs on unlabelled inputs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.importance.losses import divergence
from tersor.interface import Flat
from tersor.program import Program
from tersor.progress import Progress, Silent
from tersor.recover.correspondence import Correspondence
from tersor.recover.course import Course
from tersor.recover.loss import compared, is_logits, normalised
from tersor.recover.samples import Samples, split
from tersor.recover.student import Student, joints, observed
from tersor.recover.teaching import drawn

HUNDRED = 100

SMALLEST = 1e-2
"""Weights that are smaller than this on average take steps as if they were not, so that biases at zero can move."""


@dataclass(frozen=True)
class Distilled:
    """What distillation gave.

    Attributes:
        program: with the best weights met.
        before, after: `output_loss` on inputs that were not learnt from.
        steps: batches learnt from.
    """

    program: Program
    before: float
    after: float
    steps: int


def distill(
    original: Program,
    damaged: Program,
    calibration: Iterable[Sequence[Tensor]],
    course: Course,
    correspondence: Correspondence | None = None,
    progress: Progress | None = None,
) -> Distilled:
    """Train every floating weight of a copy of ``damaged`` to give the original's outputs.

    The loss is the squared difference of each output as a share of its energy, with the divergence of class
    distributions and the difference of inner values on top, see `Course`. A quarter of the calibration inputs judges;
    the best weights that it met are kept, those at the start included. An interruption passes through; neither program
    is ever changed.

    Raises:
        UsageError: an operator of the program has no gradient, or nothing can be trained.
        InputError: no calibration inputs, or some that do not fit.
    """
    samples = split(original, calibration)
    return learn(original, damaged, samples, course, correspondence or Correspondence(), progress)


def learn(
    original: Program,
    damaged: Program,
    samples: Samples,
    course: Course,
    correspondence: Correspondence,
    progress: Progress | None = None,
) -> Distilled:
    """`distill` with its inputs split."""
    lesson = _Lesson(original, damaged, correspondence, course)
    exam = _Exam(lesson.student, samples.held, [original.run(flat) for flat in samples.held])
    before, step, told, started = exam.best, 0, 0, time.monotonic()
    batches = drawn(samples, course.batch_size, course.mixing, torch.Generator().manual_seed(course.seed))
    shown = progress or Silent()
    shown.stage("distill", HUNDRED)
    while (done := course.done(step, started)) < 1 and exam.failures < course.patience:
        if not lesson.step(next(batches), course.rate(done, before)):
            break
        step += 1
        if step % course.every == 0 or course.done(step, started) >= 1:
            exam.take()
        shown.advance(int(HUNDRED * done) - told, f"loss {exam.best:.3g}")
        told = int(HUNDRED * done)
    return Distilled(lesson.student.taught(exam.state), before, exam.best, step)


class _Exam:
    """Judges the student on what it does not learn from, and remembers its best state."""

    def __init__(self, student: Student, held: Sequence[Flat], wanted: Sequence[Flat]) -> None:
        self.student, self.held, self.wanted = student, held, wanted
        self.best, self.state, self.failures = self._loss(), student.state(), 0

    def take(self) -> None:
        """Judge once."""
        loss = self._loss()
        self.failures = 0 if loss < self.best else self.failures + 1
        if loss < self.best:
            self.best, self.state = loss, self.student.state()

    def _loss(self) -> float:
        with torch.no_grad():
            return compared(self.wanted, [self.student(flat)[0] for flat in self.held])


class _Lesson:
    """One step of learning after another."""

    def __init__(self, original: Program, damaged: Program, correspondence: Correspondence, course: Course) -> None:
        features = joints(original, damaged, correspondence) if course.features else []
        self.student = Student.of(damaged, [name for name, _ in features])
        self.names = [twin for _, twin in features]
        self.teacher = observed(original, self.names)
        self.correspondence, self.course = correspondence, course
        leaves = self.student.leaves
        if not leaves:
            raise UsageError("the program has no floating weight to train", "use another recovery method")
        self.scales = [max(float(leaf.detach().square().mean().sqrt()), SMALLEST) for leaf in leaves]
        self.optimizer = torch.optim.Adam([{"params": [leaf]} for leaf in leaves], lr=0.0)

    def step(self, flat: Flat, rate: float) -> bool:
        """Learn from one batch; False where the loss is no longer finite."""
        for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
            group["lr"] = rate * scale
        with torch.no_grad():
            wanted, inner = self.teacher(*flat)
        loss = self._loss(wanted, inner, *self.student(flat))
        if not bool(loss.isfinite()):
            return False
        self.optimizer.zero_grad()
        _backward(loss)
        torch.nn.utils.clip_grad_norm_(self.student.leaves, 1.0)
        self.optimizer.step()
        self.student.prune()
        return True

    def _loss(self, wanted: Flat, inner: Flat, got: Flat, felt: Flat) -> Tensor:
        floating = [place for place, value in enumerate(wanted) if value.is_floating_point()]
        loss = normalised([(wanted[place], got[place]) for place in floating])
        for place in floating:
            if self.course.soft_labels and is_logits(wanted[place]):
                loss = loss + self.course.soft_labels * divergence(wanted[place], got[place])
        parts = [self.correspondence.part(name, value) for name, value in zip(self.names, inner, strict=True)]
        pairs = [(p, f) for p, f in zip(parts, felt, strict=True) if p is not None and p.shape == f.shape]
        return loss + self.course.features * normalised(pairs)


def _backward(loss: Tensor) -> None:
    if not loss.requires_grad:
        raise UsageError("no trained weight reaches a floating output", "use another recovery method")
    try:
        loss.backward()
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"the program cannot be differentiated: {reason}", 'recover with "least-squares"') from error
