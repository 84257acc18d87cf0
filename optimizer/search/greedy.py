"""The search itself: each setting alone, then the best ones together, then whatever turned out not to be needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tersor.search.candidates import Row
from tersor.search.choose import best, usable
from tersor.search.order import PREPARES, legal
from tersor.search.parts import is_part, milder, parts, prepares, without
from tersor.search.trial import IDLE, LOSSY, MEASURED, Choice, Selection, Trial

GAIN = 0.02
"""A step that saves less than this share of the time is none."""

SLACK = 1.5
"""Combinations are tried up to this multiple of the budget: losses of two passes seldom add up in full."""

BREADTH = 2
"""So many steps are tried at once, and the better one is taken; workers share them."""

DEAR = 0.25
"""A pass that loses more than this share of the budget is tried behind those that prepare for it, too."""

PATIENCE = 3
"""Rounds without a better pipeline, after which the search ends."""


@dataclass
class Search:
    """A search and what it found so far.

    Attributes:
        rows: what may be chosen.
        evaluate: gives the trials of pipelines, in their order.
        budget: share of the quality that may be lost.
        wanted: time relative to the original's, at which the search ends; None looks for the fastest.
        most: trials, after which it ends.
        trials: by pipeline.
        stopped: settings that were not tried, with the reason.
    """

    rows: Sequence[Row]
    evaluate: Callable[[Sequence[Selection]], Sequence[Trial]]
    budget: float
    wanted: float | None = None
    most: int = 120
    trials: dict[Selection, Trial] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Search to the end; what was found is there at every moment."""
        self._try([()])
        self._alone()
        self._prepared()
        chosen = self._together()
        self._refine(chosen)

    def best(self) -> Selection:
        """The best so far; nothing chosen where nothing is allowed."""
        found = best(self.trials.values(), self.budget, self.wanted)
        return next((key for key, trial in self.trials.items() if trial is found), ())

    def _try(self, selections: Sequence[Selection]) -> list[Trial]:
        new = [item for item in dict.fromkeys(selections) if item not in self.trials]
        if new:
            self.trials.update(zip(new, self.evaluate(new), strict=True))
        return [self.trials[item] for item in selections]

    def _alone(self) -> None:
        """Sensitivity: level by level, so that a pass stops where it has lost too much."""
        open_rows = {row[0].name: row for row in self.rows if row[0].name not in PREPARES}
        for level in range(max(map(len, open_rows.values()), default=0)):
            singles = [(row[level],) for row in open_rows.values() if level < len(row)]
            for selection, trial in zip(singles, self._try(singles), strict=True):
                if reason := self._hopeless(selection[0], trial):
                    row = open_rows.pop(selection[0].name)
                    self.stopped |= {choice.spec: reason for choice in row[level + 1 :]}

    def _prepared(self) -> None:
        """What a pass loses behind another that prepares for it, where it loses a fair share of the budget alone."""
        pairs = []
        for selection, trial in self.trials.items():
            if trial.status in (LOSSY, MEASURED) and trial.loss > DEAR * self.budget:
                pairs += [
                    self._ordered([row[0], choice])
                    for choice in selection
                    for row in self.rows
                    if prepares(row[0], choice.name)
                ]
        self._try(pairs)

    def _hopeless(self, choice: Choice, trial: Trial) -> str:
        """Why harsher settings of a pass need not be tried; empty where they must."""
        milder = [self.trials.get((item,)) for row in self.rows for item in row if item.name == choice.name]
        alike = sum(item is not None and item.status == trial.status for item in milder)
        if trial.status == IDLE and alike > 1:
            return f"{IDLE}: neither has {choice.spec}"
        if trial.status != LOSSY or trial.lost is None or (trial.loss <= 2 * self.budget and alike < 2):
            return ""
        return f"too lossy: {choice.spec} already loses {trial.lost:.2%} of the {self.budget:.2%} that may go"

    def _together(self) -> Selection:
        """Add and exchange settings, always what gains most for what it loses, as long as that pays."""
        current: Selection = ()
        failures = 0
        while failures < PATIENCE and len(self.trials) < self.most and not self._reached(current):
            steps = self._steps(current)[:BREADTH]
            if not steps:
                break
            better = self._taken(current, steps, self._try(steps))
            failures = 0 if better is not None else failures + 1
            current = current if better is None else better
        return current

    def _reached(self, selection: Selection) -> bool:
        return self.wanted is not None and self.trials[selection].time <= self.wanted

    def _taken(self, current: Selection, steps: Sequence[Selection], trials: Sequence[Trial]) -> Selection | None:
        """The step that gains most for what it loses, as measured; None where none pays."""
        now = self.trials[current]
        good = [
            (self._worth(now, trial), step)
            for step, trial in zip(steps, trials, strict=True)
            if trial in usable([trial], self.budget) and trial.time < now.time * (1 - GAIN)
        ]
        return max(good, key=lambda item: item[0])[1] if good else None

    def _steps(self, current: Selection) -> list[Selection]:
        """Pipelines one setting away, by predicted gain per lost quality; those that cannot pay are left out."""
        now = self.trials[current]
        found = []
        for step in self._neighbours(current):
            expected = self.expected(step)
            if expected is None or expected.time > now.time * (1 - GAIN) or self._too_lossy(step, expected):
                continue
            found.append((self._worth(now, expected), step))
        return [step for _, step in sorted(found, key=lambda item: -item[0])]

    def _neighbours(self, current: Selection) -> Iterator[Selection]:
        for row in (row for row in self.rows if row[0].name not in PREPARES):
            name = row[0].name
            others = [item for item in current if item.name != name and not prepares(item, name)]
            for part in [tried for tried in self.trials if is_part(tried) and any(item in tried for item in row)]:
                step = self._ordered([*others, *part])
                if step != current and legal([item.name for item in step]):
                    yield step

    def _ordered(self, choices: Sequence[Choice]) -> Selection:
        order = {row[0].name: place for place, row in enumerate(self.rows)}
        return tuple(sorted(choices, key=lambda item: order[item.name]))

    def expected(self, selection: Selection) -> Trial | None:
        """What a pipeline would do if its passes did not touch each other; None where one of them does not work."""
        if selection in self.trials:
            return self.trials[selection] if usable([self.trials[selection]], self.budget) else None
        base, lost, ratio = self.trials[()], 0.0, self.trials[()].time
        for part in parts(selection):
            alone = self.trials.get(part)
            if alone is None or alone.status != MEASURED:
                return None
            lost, ratio = lost + alone.loss - base.loss, ratio * alone.time / base.time
        return Trial("", MEASURED, lost=base.loss + lost, ratio=ratio)

    def _too_lossy(self, step: Selection, expected: Trial) -> bool:
        """Whether the sum of the single losses, or a milder pipeline that was tried, says so."""
        if expected.loss > SLACK * self.budget + 1e-12:
            return True
        return any(trial.status == LOSSY and milder(other, step) for other, trial in self.trials.items())

    def _worth(self, now: Trial, then: Trial) -> float:
        """Logarithm of the time saved for each share of quality that is lost."""
        floor = max(self.budget / 50, 1e-5)
        return math.log(now.time / max(then.time, 1e-12)) / max(then.loss - now.loss, floor)

    def _refine(self, chosen: Selection) -> None:
        """Leave out each pass in turn, and where a latency is wanted also make it milder; go on from what is better."""
        while len(self.trials) < self.most:
            self._try([without(chosen, item) for item in chosen])
            if self.wanted is not None and self._reached(chosen):
                self._try([step for item in chosen if (step := self._gentler(chosen, item)) is not None])
            better = self.best()
            if better == chosen:
                return
            chosen = better

    def _gentler(self, chosen: Selection, item: Choice) -> Selection | None:
        row = next(row for row in self.rows if row[0].name == item.name)
        place = row.index(item)
        return tuple(row[place - 1] if other is item else other for other in chosen) if place else None


def with_expectation(search: Search, selection: Selection) -> Trial | None:
    """What the single passes let expect of a combination; None for single passes, prepared or not."""
    if not selection or is_part(selection):
        return None
    known = {key: value for key, value in search.trials.items() if not key or is_part(key)}
    return replace(search, trials=known).expected(selection)
