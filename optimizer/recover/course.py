"""How to distill: for how long, in which steps, with which loss."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from tersor.errors import UsageError

WARM_UP = 0.05
"""Share of a course in which the learning rate rises."""


@dataclass(frozen=True)
class Course:
    """How to learn.

    Attributes:
        seconds, steps: when to stop, whichever comes first; by steps alone the result does not depend on the machine.
        learning_rate: a step of Adam as a share of the root mean square of each weight tensor; None chooses a tenth
            of the root of the loss at the start, at most 0.05, since what is hardly damaged needs small steps.
        batch_size: examples, where batches can be cut anew.
        patience: stop after so many judgements without progress.
        every: steps between judgements.
        features: weight of matching inner values where residual streams are added up.
        soft_labels: weight of the divergence between class distributions, where an output looks like logits.
        mixing: see `tersor.recover.teaching.drawn`.
        seed: of order and mixtures.
    """

    seconds: float | None = None
    steps: int | None = None
    learning_rate: float | None = None
    batch_size: int = 32
    patience: int = 30
    every: int = 20
    features: float = 1.0
    soft_labels: float = 0.0
    mixing: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seconds is None and self.steps is None:
            raise UsageError("distillation without an end", "give seconds, steps or both")
        for name in ("seconds", "steps", "learning_rate", "batch_size", "patience", "every"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UsageError(f"{name} is {value}", "wanted a positive number")

    def done(self, step: int, started: float) -> float:
        """The share of the course that is over."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = (time.monotonic() - started) / self.seconds if self.seconds else 0.0
        return max(by_steps, by_time)

    def rate(self, done: float, loss: float) -> float:
        """The learning rate after a share of the course: a short rise, then half a cosine."""
        peak = self.learning_rate or min(0.05, max(1e-3, 0.1 * math.sqrt(loss)))
        return peak * min(1.0, (done + 1e-3) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
