"""Build, verify, predict and measure one pipeline, reusing what pipelines with the same beginning have in common."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field, replace

from tersor.context import Pass
from tersor.errors import TersorError
from tersor.pipeline import Lossy, Outcome, WrittenInto, extend
from tersor.program import Program
from tersor.report.model import StepRecord
from tersor.search.predict import predicted_ratio
from tersor.search.timing import Stopwatch
from tersor.search.trial import FAILED, IDLE, LOSSY, MEASURED, Selection, Trial, written
from tersor.target import Target

REMEMBERED = 24
"""So many programs are kept for pipelines that begin alike; their weights are shared where passes left them."""


@dataclass
class Workbench:
    """What pipelines are built from.

    Attributes:
        original: as captured.
        start: what the exact passes made of it.
        lossy: data, budget and repair.
        clean: exact passes that follow each choice.
        target, backend: what times are predicted for.
        stopwatch: measures; None where times are only predicted.
    """

    original: Program
    start: Outcome
    lossy: Lossy
    clean: tuple[Pass, ...]
    target: Target
    backend: str
    stopwatch: Stopwatch | None
    built: OrderedDict[str, Outcome] = field(default_factory=OrderedDict)

    def trial(self, selection: Selection, patience: float = 1.0) -> Trial:
        """Everything about one pipeline, timed so many times as long; raises only what ends the run."""
        started = time.perf_counter()
        try:
            found = self._tried(selection, patience)
        except WrittenInto:
            raise
        except TersorError as error:
            found = Trial(written(selection), FAILED, str(error))
        except Exception as error:  # a fault of ours or of a library costs the candidate, not the search
            reason = f"internal error, please report it: {type(error).__name__}: {error}".splitlines()[0]
            found = Trial(written(selection), FAILED, reason)
        return replace(found, seconds=time.perf_counter() - started)

    def _tried(self, selection: Selection, patience: float) -> Trial:
        outcome, failed = self._outcome(selection)
        if failed is not None:
            return self._not_built(selection, failed)
        steps = [step for step in outcome.steps if step.quality is not None]
        quality = steps[-1].quality if steps else self.lossy.quality.measure(outcome.program)
        assert quality is not None
        predicted = predicted_ratio(outcome.program, self.original, self.target, self.backend)
        made = Trial(
            written(selection), MEASURED, "", quality, self.lossy.quality.lost(quality), predicted, predicted,
            predicted, predicted,
        )  # fmt: skip
        if self.stopwatch is None:
            return made
        try:
            longer = replace(self.stopwatch, seconds=patience * self.stopwatch.seconds)
            ratio, backend = longer.measure(outcome.program, outcome.reference)
        except TersorError as error:
            return replace(made, status=FAILED, reason=str(error), ratio=None, low=None, high=None)
        finally:
            outcome.program.changed()
        return replace(made, ratio=ratio.median, low=ratio.low, high=ratio.high, backend=backend)

    def _outcome(self, selection: Selection) -> tuple[Outcome, StepRecord | None]:
        """What a pipeline makes, or the step at which it ends."""
        if not selection:
            return self.start, None
        name = written(selection)
        if name in self.built:
            self.built.move_to_end(name)
            return self.built[name], None
        before, failed = self._outcome(selection[:-1])
        if failed is not None:
            return before, failed
        made = extend(before, (selection[-1].item,), self.lossy)
        step = made.steps[-1]
        if step.status != "kept":
            return made, step
        made = extend(made, self.clean, self.lossy)
        self.built[name] = made
        while len(self.built) > REMEMBERED:
            self.built.popitem(last=False)
        return made, None

    def _not_built(self, selection: Selection, step: StepRecord) -> Trial:
        if step.status == "unchanged":
            reasons = Counter(site.detail for site in step.skipped).most_common(1)
            reason = f"{step.spec}: {reasons[0][0] if reasons else 'it finds no place in this model'}"
            return Trial(written(selection), IDLE, reason)
        if step.quality is None:
            return Trial(written(selection), FAILED, f"{step.spec}: {step.reason}")
        lost = self.lossy.quality.lost(step.quality)
        return Trial(written(selection), LOSSY, f"{step.spec}: {step.reason}", step.quality, lost)
