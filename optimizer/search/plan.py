"""Choose passes and settings for a model: the search, its persistence, and the race of the best few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tersor.pipeline import Lossy, Outcome
from tersor.program import Program
from tersor.progress import Progress
from tersor.quality import Quality
from tersor.report.model import PlanRecord
from tersor.search.build import Workbench
from tersor.search.candidates import Row, candidates
from tersor.search.choose import best, finalists
from tersor.search.explain import contributions, records
from tersor.search.greedy import Search
from tersor.search.journal import Journal
from tersor.search.order import CLEAN
from tersor.search.predict import predicted_seconds
from tersor.search.store import key, open_journal
from tersor.search.timing import Stopwatch, runs_here, stopwatch
from tersor.search.trial import MEASURED, Selection, Trial, written
from tersor.search.wanted import Latency
from tersor.spec import parse
from tersor.target import processor

FINALISTS = 3
"""So many of the best pipelines are timed once more."""

LONGER = 4.0
"""So many times as long as before."""

REPEATS = 5
"""Calls of a metric that gives another number each time; their mean is taken."""


@dataclass(frozen=True)
class Settings:
    """What the planner is asked.

    Attributes:
        latency: that is wanted; None looks for the fastest within the budget.
        study: file or database of the trials; None takes the user's cache directory.
        resume: go on with an earlier search.
        seconds: to measure each candidate; 0 decides by predictions alone.
        facts: what else makes two searches the same, for `tersor.search.store.key`.
    """

    latency: Latency | None = None
    study: str | Path | None = None
    resume: bool = False
    seconds: float = 0.5
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Planner:
    """One search.

    Attributes:
        original, start: the program as captured, and what the exact passes made of it.
        lossy: data, budget, repair, target and backend.
        settings: what is asked.
        progress: told of every trial.
        notes: what the user should know.
    """

    original: Program
    start: Outcome
    lossy: Lossy
    settings: Settings
    progress: Progress
    notes: list[str] = field(default_factory=list)

    def plan(self) -> tuple[Selection, PlanRecord]:
        """The best pipeline, and the record of the search; Ctrl-C ends it with the best so far."""
        self.lossy.quality = self._steady(self.lossy.quality)
        rows, refused = candidates(self.start.program, self.lossy.target, self.lossy.backend)
        journal = self._journal(rows)
        original_ms = self._original_ms(journal)
        wanted = self.settings.latency.ratio(original_ms) if self.settings.latency is not None else None
        search = Search(rows, lambda items: self._evaluate(journal, search, items), self.lossy.quality.budget, wanted)
        self.progress.stage("plan", None)
        chosen: Selection = ()
        try:
            search.run()
            chosen = self._race(journal, search)
        except KeyboardInterrupt:
            self.notes.append("the search was interrupted; this is the best of what it had tried")
            self.progress.message("interrupted: the best so far is being finished; Ctrl-C again leaves at once")
            chosen = search.best()
        return chosen, self._record(search, chosen, refused, original_ms, journal.where if journal.study else "")

    def _evaluate(
        self, journal: Journal, search: Search, selections: Sequence[Selection], *, again: bool = False
    ) -> list[Trial]:
        def make(selection: Selection, again: bool) -> Trial:
            made = self._bench.trial(selection, LONGER if again else 1.0)
            top = best([*search.trials.values(), made], search.budget, search.wanted)
            now = f"; best so far: {_told(top)}" if top is not None else ""
            self.progress.advance(1, f"{_told(made)}{now}")
            if top is made and made.pipeline and not again:
                self.progress.message(f"best so far: {_told(made)}")
            return made

        return journal.evaluate(selections, make, again=again)

    @cached_property
    def _stopwatch(self) -> Stopwatch | None:
        if self.settings.seconds <= 0 or not runs_here(self.lossy.target):
            return None
        reference = self.start.reference
        return stopwatch(self.original, reference, self.lossy.target, self.lossy.backend, self.settings.seconds)

    @cached_property
    def _bench(self) -> Workbench:
        target, backend = self.lossy.target, self.lossy.backend
        return Workbench(self.original, self.start, self.lossy, parse(CLEAN), target, backend, self._stopwatch)

    def _journal(self, rows: Sequence[Row]) -> Journal:
        target, quality = self.lossy.target, self.lossy.quality
        facts = {
            **self.settings.facts,
            "target": [target.name, target.threads, processor()],
            "backend": self.lossy.backend,
            "budget": quality.budget,
            "quality": [quality.name, quality.original],
            "latency": str(self.settings.latency),
            "seed": self.lossy.seed,
            "measured": self.settings.seconds > 0,
            "choices": [choice.spec for row in rows for choice in row],
        }
        settings = self.settings
        return open_journal(settings.study, key(facts), rows, resume=settings.resume, say=self._say)

    def _say(self, text: str) -> None:
        self.notes.append(text)
        self.progress.message(text)

    def _original_ms(self, journal: Journal) -> float | None:
        known = journal.recall("original_ms")
        if known is not None:
            return float(known)
        if self._stopwatch is not None:
            return float(journal.remember("original_ms", self._stopwatch.ms))
        seconds = predicted_seconds(self.original, self.lossy.target, self.lossy.backend)
        return None if seconds is None else seconds * 1e3

    def _steady(self, quality: Quality) -> Quality:
        """The same measure, averaged where it gives another number for the same program."""
        values = [quality.original, quality.measure(self.original)]
        if values[0] == values[1]:
            return quality
        values += [quality.measure(self.original) for _ in range(REPEATS)]
        spread, mean = stdev(values), fmean(values)
        self._say(
            f"the metric is noisy: its standard deviation is {spread:.2g}, {spread / max(abs(mean), 1e-12):.2%} of its "
            f"value; each figure is the mean of {REPEATS} calls, and a difference below "
            f"{2 * spread / REPEATS**0.5:.2g} means nothing"
        )
        return Quality(
            quality.name, lambda program: fmean(quality.measure(program) for _ in range(REPEATS)), mean, quality.budget
        )

    def _race(self, journal: Journal, search: Search) -> Selection:
        """The best few against the original once more, for longer; the trials then hold these times."""
        few = finalists(list(search.trials.values()), search.budget, search.wanted, FINALISTS)
        if self.settings.seconds <= 0 or not runs_here(self.lossy.target) or len(few) < 2:
            return search.best()
        names = {trial.pipeline: selection for selection, trial in search.trials.items()}
        chosen = [names[trial.pipeline] for trial in few]
        self.progress.stage("finalists", len(few))
        for selection, trial in zip(chosen, self._evaluate(journal, search, chosen, again=True), strict=True):
            if trial.status == MEASURED:
                search.trials[selection] = trial
        top = best([search.trials[selection] for selection in chosen], search.budget, search.wanted)
        return names[top.pipeline] if top is not None else ()

    def _record(
        self, search: Search, chosen: Selection, refused: dict[str, str], original_ms: float | None, study: str
    ) -> PlanRecord:
        record = PlanRecord(written(chosen), original_ms, search.wanted, search.budget, study=study)
        record.verdict = _verdict(search, chosen, original_ms)
        record.trials = records(search, chosen, refused) if chosen in search.trials else []
        record.contributions = contributions(search, chosen) if chosen in search.trials else []
        return record


def _verdict(search: Search, chosen: Selection, original_ms: float | None) -> str:
    trial = search.trials.get(chosen)
    if trial is None or trial.ratio is None:
        return "nothing was tried"
    ms = "" if original_ms is None else f", {trial.ratio * original_ms:.3g} of {original_ms:.3g} ms"
    found = f"{trial.ratio:.0%} of the original's time{ms}, with a loss of {trial.loss:.2%}"
    if search.wanted is None:
        return found
    if trial.ratio <= search.wanted:
        return f"the latency is reached: {found}"
    return (
        f"the latency is not reached: {found}; {search.wanted:.0%} was wanted, {trial.ratio / search.wanted:.2f} times "
        "less. Nothing faster stays within the budget"
    )


def _told(trial: Trial) -> str:
    name = trial.pipeline or "exact passes"
    if trial.status != MEASURED or trial.ratio is None:
        return f"{name}: {trial.status}"
    return f"{name}: {trial.ratio:.0%} of the time, loses {trial.loss:.2%}"
