"""Hand the rewritten program to backends, compare what they compute with the original, keep what pays."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from tersor.backend import Backend, Compiled, backend_names, find_backend
from tersor.check import RUNTIME_FLOOR, failure
from tersor.cost.flops import program_flops
from tersor.errors import BackendError, ParityError, TersorError
from tersor.interface import Flat
from tersor.measure import interleaved, paired
from tersor.pipeline import Outcome, Reference
from tersor.program import Program
from tersor.report.model import LayerTime, Report, Timing
from tersor.target import Target

SLOWER = 1.02
"""A rewrite that is measured slower than this multiple of the original does not pay."""

CLOSE = 1.15
"""Backends within this multiple of the fastest are timed again, two at a time: one race is too short to rank them."""

AS_FAST = 1.05
"""One thread within this multiple of several is preferred: their time varies with what else runs, as its does not."""

ORIGINAL = "original"
EXACT = "exact passes only"

ALONE = "1 thread"
THREADED = ("onnxruntime", "openvino")
"""Backends whose threads can be set for each program."""

SMALL = 100e6
"""Floating-point operations below which threads may take longer to meet than they save: a core's millisecond."""


@dataclass
class Lowered:
    """A program in the hands of a backend.

    Attributes:
        program: what runs: the rewritten program, or the original where the rewrite did not pay.
        backend: what runs it.
        call: takes and returns flat tensors.
    """

    program: Program
    backend: Backend
    call: Compiled


@dataclass
class _Race:
    """Compiled contestants by label, and why others are not among them."""

    target: Target
    entries: dict[str, Lowered] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def enter(
        self, label: str, program: Program, backend: Backend, reference: Reference, report: Report, threads: int = 0
    ) -> None:
        """Compile and check one contestant, with the target's threads or fewer; remember why where it is refused."""
        target = replace(self.target, threads=threads or self.target.threads)
        try:
            lowered = Lowered(program, backend, compile_checked(program, backend, reference, target, report))
            self.entries[label] = lowered
        except TersorError as error:
            self.refused[label] = str(error)
        except Exception as error:  # a backend's own bug must cost the user that backend, not the run
            self.refused[label] = f"{type(error).__name__}: {error}".splitlines()[0]


@runtime_checkable
class Timed(Protocol):
    """A compiled program that can time its layers one by one."""

    def layers(self, inputs: Flat) -> list[LayerTime]:
        """Milliseconds of each on these inputs."""


def lower(
    reference: Reference, outcome: Outcome, target: Target, wanted: str, seconds: float, report: Report
) -> Lowered:
    """Compile for the wanted backend, or for every installed one where ``wanted`` is "auto", and keep the fastest.

    The original is compiled by the fastest backend too, and what there was before the lossy passes: a rewrite that does
    not pay there is not kept.

    Raises:
        BackendError: no backend takes the program; the message holds each one's reason.
    """
    race = _Race(target)
    candidates = _candidates(wanted, target, report)
    for backend in candidates:
        race.enter(backend.name, outcome.program, backend, outcome.reference, report)
    if wanted == "auto" and target.threads > 1 and program_flops(outcome.program).products < SMALL:
        for backend in (item for item in candidates if item.name in THREADED):
            race.enter(f"{backend.name}, {ALONE}", outcome.program, backend, outcome.reference, report, threads=1)
    rewritten = outcome.program is not reference.program
    if rewritten and not race.entries:
        _fall_back(race, candidates, reference, outcome, report)
    elif rewritten and seconds > 0:
        best = race.entries[
            _fastest(race, _measure(race, reference, seconds / 2 if len(race.entries) > 1 else 0))
        ].backend
        race.enter(f"{best.name} ({ORIGINAL})", reference.program, best, reference, report)
        if outcome.exact is not None and outcome.exact is not reference.program:
            race.enter(f"{best.name} ({EXACT})", outcome.exact, best, reference, report)
    report.notes += [f"backend {label} was not used: {reason}" for label, reason in race.refused.items()]
    if not race.entries:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in race.refused.items())
        raise BackendError(f"no backend takes the program: {reasons or 'none is installed'}", "try backend='eager'")
    report.timings = _measure(race, reference, seconds) if seconds > 0 else []
    report.kept = _choose(race, outcome.program, reference.program.example, seconds, report)
    report.backend = race.entries[report.kept].backend.name
    if seconds > 0:
        _time_layers(race.entries[report.kept].call, reference.program.inputs, report)
    if report.kept.endswith(ALONE):
        report.notes.append(
            f"one thread is as fast as {target.threads} for this model, or faster; set it where you deploy it too"
        )
    return race.entries[report.kept]


def _fall_back(race: _Race, candidates: list[Backend], reference: Reference, outcome: Outcome, report: Report) -> None:
    """Enter what there was before the lossy passes, and the original where no backend takes that either."""
    for label, program in ((EXACT, outcome.exact), (ORIGINAL, reference.program)):
        if race.entries or program is None:
            continue
        for backend in candidates:
            race.enter(f"{backend.name} ({label})", program, backend, reference, report)


def _time_layers(call: Compiled, inputs: Flat, report: Report) -> None:
    if not isinstance(call, Timed):
        return
    try:
        report.layers = call.layers(inputs)
    except TersorError as error:
        report.notes.append(f"layers were not timed: {error}")


def _candidates(wanted: str, target: Target, report: Report) -> list[Backend]:
    """The backends that can be used here; those for other devices are not worth a word."""
    if wanted != "auto":
        backend = find_backend(wanted)
        problem = backend.missing()
        if problem:
            raise BackendError(f"backend {wanted!r} is not usable: {problem}")
        return [backend]
    found = []
    for name in backend_names():
        backend = find_backend(name)
        if target.device not in getattr(backend, "devices", (target.device,)):
            continue
        problem = backend.missing()
        if problem:
            report.notes.append(f"backend {name} was not tried: {problem}")
        else:
            found.append(backend)
    return found


def compile_checked(
    program: Program, backend: Backend, reference: Reference, target: Target, report: Report | None = None
) -> Compiled:
    """Compile, run at every binding, and raise ParityError where the artefact differs from the original."""
    call = backend.compile(program, target)
    parities = reference.judge(f"{backend.name} against {reference.name}", call, RUNTIME_FLOOR)
    if report is not None:
        report.parity += parities
    problem = failure(parities)
    if problem:
        raise ParityError(f"{backend.name} computes something else: {problem}", "use another backend")
    return call


def _measure(race: _Race, reference: Reference, seconds: float) -> list[Timing]:
    if seconds <= 0:
        return []
    inputs = reference.program.example
    contestants = {label: _bound(entry.call, inputs) for label, entry in race.entries.items()}
    contestants.setdefault(f"eager ({ORIGINAL})", _bound(reference.program.run_flat, inputs))
    return interleaved(contestants, seconds=seconds * len(contestants))


def _bound(call: Compiled, inputs: Flat) -> Callable[[], Flat]:
    return lambda: call(*inputs)


def _fastest(race: _Race, timings: list[Timing]) -> str:
    medians = {timing.name: timing.median_ms for timing in timings}
    return min(race.entries, key=lambda label: medians.get(label, 0.0))


def _duels(race: _Race, inputs: Flat, seconds: float, report: Report) -> str:
    """The fastest label; those close behind it on the same program meet it in neighbouring turns, one by one."""
    best = _fastest(race, report.timings)
    medians = {timing.name: timing.median_ms for timing in report.timings if timing.name in race.entries}
    limit, program = CLOSE * medians.get(best, 0.0), race.entries[best].program
    for label in sorted(medians, key=lambda label: medians[label]):
        if label != best and medians[label] <= limit and race.entries[label].program is program:
            first, second = (_bound(race.entries[name].call, inputs) for name in (best, label))
            ratio = paired(first, second, seconds=seconds)
            if ratio.median < 1:
                report.notes.append(
                    f"{label} takes {ratio.median:.2f} times as long as {best} where the two are timed in neighbouring "
                    f"turns ({ratio.low:.2f} to {ratio.high:.2f}): it is chosen, although not the fastest in the race"
                )
                best = label
    return best


def _on_fewer_threads(best: str, report: Report) -> str:
    """The same on one thread where that takes no longer.

    How fast several threads meet is decided anew each time the operating system places them: BERT-tiny's two were seen
    to take 0.156 ms a run in one process and 0.235 ms in the next, its one thread 0.157 ms in both.
    """
    medians = {timing.name: timing.median_ms for timing in report.timings}
    alone = f"{best}, {ALONE}"
    return alone if medians.get(alone, math.inf) <= AS_FAST * medians.get(best, 0.0) else best


def _choose(race: _Race, rewritten: Program, inputs: Flat, seconds: float, report: Report) -> str:
    """The fastest label; what came before on the same backend wins only where it is clearly faster, measured twice."""
    fastest = _on_fewer_threads(_duels(race, inputs, seconds, report), report)
    backend = race.entries[fastest].backend.name
    if race.entries[fastest].program is rewritten or backend not in race.entries:
        return fastest
    by_label = {timing.name: timing for timing in report.timings}
    before, after = (_bound(race.entries[label].call, inputs) for label in (fastest, backend))
    if _significantly_slower(by_label[backend], by_label[fastest]) and _confirmed(before, after, seconds):
        report.notes.append(
            f"the rewrite does not pay on {backend}: {by_label[backend].median_ms:.3g} ms against "
            f"{by_label[fastest].median_ms:.3g} ms of {fastest}, which is kept"
        )
        return fastest
    return backend


def _confirmed(before: Callable[[], Flat], after: Callable[[], Flat], seconds: float) -> bool:
    """Whether the two alone, in neighbouring turns, show the same: the noise of a busy machine does not come twice."""
    ratio = paired(before, after, seconds=seconds)
    return ratio.median > SLOWER and ratio.low > 1


def _significantly_slower(candidate: Timing, best: Timing) -> bool:
    return candidate.median_ms > SLOWER * best.median_ms and candidate.low_ms > best.median_ms
