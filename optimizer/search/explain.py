"""Why each pipeline was or was not taken, and what each pass of the chosen one contributes."""

from __future__ import annotations

from collections.abc import Mapping

from tersor.report.model import ContributionRecord, TrialRecord
from tersor.search.choose import front
from tersor.search.greedy import GAIN, Search, with_expectation
from tersor.search.parts import without
from tersor.search.trial import LOSSY, MEASURED, Selection, Trial, written


def records(search: Search, chosen: Selection, refused: Mapping[str, str]) -> list[TrialRecord]:
    """One record per trial, the fastest first, then what failed, then what was not tried."""
    best = front(search.trials.values(), search.budget)
    made = []
    for selection, trial in search.trials.items():
        status, reason = _told(search, selection, chosen, best)
        made.append(_record(trial, status, reason, with_expectation(search, selection)))
    made.sort(key=lambda item: (item.measured is None, item.measured or 0.0, item.passes))
    untried = {**{name: f"unsupported: {reason}" for name, reason in refused.items()}, **search.stopped}
    return made + [TrialRecord(spec, "not tried", reason) for spec, reason in untried.items()]


def contributions(search: Search, chosen: Selection) -> list[ContributionRecord]:
    """The chosen pipeline without each of its passes, beside it."""
    whole = search.trials[chosen]
    made = []
    for item in chosen:
        rest = search.trials.get(without(chosen, item))
        timed = rest is not None and rest.ratio is not None and whole.ratio is not None
        known = rest is not None and rest.lost is not None and whole.lost is not None
        time = rest.time / whole.time if rest is not None and timed else None
        lost = (whole.lost or 0.0) - (rest.lost or 0.0) if rest is not None and known else None
        made.append(ContributionRecord(item.spec, time, lost))
    return made


def _record(trial: Trial, status: str, reason: str, expected: Trial | None) -> TrialRecord:
    return TrialRecord(
        trial.pipeline, status, reason, trial.predicted, trial.ratio, trial.low, trial.high, trial.quality, trial.lost,
        None if expected is None else expected.ratio, None if expected is None else expected.lost, trial.backend,
        trial.seconds,
    )  # fmt: skip


def _told(search: Search, selection: Selection, chosen: Selection, best: list[Trial]) -> tuple[str, str]:
    trial = search.trials[selection]
    if selection == chosen:
        return "chosen", ""
    if trial.status == LOSSY:
        return "too lossy", f"too lossy: it loses {trial.loss:.2%} of the {search.budget:.2%} that may go"
    if trial.status != MEASURED:
        return trial.status, f"{'unsupported' if trial.status == 'failed' else trial.status}: {trial.reason}"
    if trial.loss > search.budget + 1e-12:
        return "too lossy", f"too lossy: it loses {trial.loss:.2%} of the {search.budget:.2%} that may go"
    if any(trial is item for item in best):
        return "front", _beside(search, trial, search.trials[chosen])
    if reason := _no_gain(search, selection):
        return "no gain", reason
    other = next((item for item in best if item.time <= trial.time and item.loss <= trial.loss), best[0])
    return "beaten", f"{other.pipeline or 'the exact passes alone'} is as fast and loses no more"


def _beside(search: Search, trial: Trial, taken: Trial) -> str:
    if trial.time < taken.time:
        return f"faster than the plan, and loses {trial.loss:.2%} instead of {taken.loss:.2%}"
    missed = search.wanted is not None and trial.time > search.wanted
    slower = "does not reach the latency" if missed else "is slower"
    return f"loses {trial.loss:.2%} instead of {taken.loss:.2%}, and {slower}"


def _no_gain(search: Search, selection: Selection) -> str:
    """Why a pipeline saves nothing, against the pipeline without its last pass; empty where it saves something."""
    trial, rest = search.trials[selection], search.trials.get(selection[:-1])
    if not selection or rest is None or rest.status != MEASURED or trial.time < rest.time * (1 - GAIN):
        return ""
    predicted = (trial.predicted or 0.0) / (rest.predicted or 1.0)
    return (
        f"no gain on this target: predicted {predicted:.2f}, measured {trial.time / rest.time:.2f} times the time of "
        f"{written(selection[:-1]) or 'the exact passes alone'}"
    )
