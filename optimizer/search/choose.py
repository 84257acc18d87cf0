"""Which of several trials is the best, and which ones nobody beats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tersor.search.trial import MEASURED, Trial

TIE = 0.02
"""Times closer than this share are alike: what is simpler or loses less is taken."""


def usable(trials: Iterable[Trial], budget: float) -> list[Trial]:
    """Those that have a time and lose no more than the budget."""
    return [trial for trial in trials if trial.status == MEASURED and trial.loss <= budget + 1e-12]


def best(trials: Iterable[Trial], budget: float, wanted: float | None = None) -> Trial | None:
    """The trial to keep: of those that reach the wanted time the one that loses least, else the fastest.

    Args:
        trials: any.
        budget: share of the quality that may be lost.
        wanted: time relative to the original's; None asks for the fastest.
    """
    allowed = usable(trials, budget)
    fast = [trial for trial in allowed if wanted is not None and trial.time <= wanted]
    if fast:
        return min(fast, key=lambda trial: (trial.loss, trial.time, _size(trial)))
    if not allowed:
        return None
    least = min(trial.time for trial in allowed)
    alike = [trial for trial in allowed if trial.time <= least * (1 + TIE)]
    return min(alike, key=lambda trial: (_size(trial), trial.loss, trial.time, trial.pipeline))


def front(trials: Iterable[Trial], budget: float) -> list[Trial]:
    """Those that none is faster than without losing more, the fastest first.

    >>> a, b = Trial("a", MEASURED, lost=0.1, ratio=0.5), Trial("b", MEASURED, lost=0.2, ratio=0.6)
    >>> [trial.pipeline for trial in front([a, b], budget=1.0)]
    ['a']
    """
    found: list[Trial] = []
    for trial in sorted(usable(trials, budget), key=lambda item: (item.time, item.loss, _size(item))):
        if not found or trial.loss < found[-1].loss:
            found.append(trial)
    return found


def finalists(trials: Sequence[Trial], budget: float, wanted: float | None, count: int) -> list[Trial]:
    """The best few, each one the best without those before it."""
    left = list(trials)
    found: list[Trial] = []
    while len(found) < count and (trial := best(left, budget, wanted)) is not None:
        found.append(trial)
        left = [item for item in left if item is not trial]
    return found


def _size(trial: Trial) -> int:
    return trial.pipeline.count(",") + 1 if trial.pipeline else 0
