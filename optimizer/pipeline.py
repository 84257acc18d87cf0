"""Run passes over a program, each one verified: clone, apply, refresh, repair, judge, keep or drop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from tersor.bindings import Binding, bindings, hiding, tiny
from tersor.check import failure, judge, structure
from tersor.context import Context, Pass, Site
from tersor.errors import CaptureError, RewriteError, TersorError, first_line
from tersor.interface import Flat
from tersor.noise import rounding
from tersor.probes import are_finite
from tersor.program import Program
from tersor.progress import Progress, Silent
from tersor.quality import Data, Quality
from tersor.refresh import refresh
from tersor.report.model import Parity, SiteRecord, StepRecord
from tersor.spec import render_one
from tersor.target import Target, detect

SWEEPS = 4
"""Exact passes are repeated until none finds a site, at most this often."""


class WrittenInto(RewriteError):
    """A pass changed the original's weights in place, which no rollback can undo: the run ends."""


CHAOS = 1e-4
"""Rounding errors above this share of an output's largest value, a thousand times those of one operator."""


@dataclass
class Reference:
    """The original's outputs, against which every step is judged.

    Attributes:
        program: the original.
        cases: sizes and inputs.
        outputs: the original's outputs at each case.
        noises: the original's own rounding error per output, by case and kind; computed when first asked for.
        name: what the report calls it.
        probes: so many of the cases, the last ones, are no inputs that a user gave the size or range of.
    """

    program: Program
    cases: list[Binding]
    outputs: list[Flat]
    noises: dict[tuple[int, bool], list[float]] = field(default_factory=dict)
    name: str = "the original"
    probes: int = 0

    @classmethod
    def of(cls, program: Program, extra: Sequence[Flat] = ()) -> Reference:
        """Run the original once at every binding; raises CaptureError where it does not run on its own example."""
        try:
            example = program.run(program.inputs)
        except Exception as error:
            line = first_line(error)
            raise CaptureError(f"the captured program does not run on the example inputs: {line}") from error
        probes = _probes(program, example)
        cases = [*bindings(program, extra), *probes]
        outputs = [example, *(case.outputs_of(program) for case in cases[1:])]
        return cls(program, cases, outputs, probes=len(probes))

    def moved(self, program: Program) -> Reference:
        """The same cases with another program's outputs, which from now on are what must be reproduced."""
        outputs = [program.run(case.inputs) for case in self.cases]
        return Reference(program, self.cases, outputs, name="what the lossy passes left", probes=self.probes)

    def judge(self, what: str, run: Callable[..., Flat], floor: float = 0.0) -> list[Parity]:
        """Compare another implementation with the original at every binding.

        A probe that it fails is left out where the original's own rounding error is beyond all tolerance.
        """
        names, noise = self.program.interface.output_names, partial(self.noise, elsewhere=floor > 0)
        found = judge(what, self.outputs, run, self.cases, names, noise, floor)
        return [item for case, item in enumerate(found) if item.passed or not item.outputs or not self._is_chaos(case)]

    def _is_chaos(self, case: int) -> bool:
        """Whether a probe says nothing: rounding alone moves an output there by a part of its size."""
        if case < len(self.cases) - self.probes:
            return False
        scales = [float(value.abs().max()) if value.numel() else 0.0 for value in self.outputs[case]]
        return any(noise > CHAOS * scale for noise, scale in zip(self.noise(case), scales, strict=True))

    def noise(self, case: int, elsewhere: bool = False) -> list[float]:
        """How far rounding alone moves the original's outputs at one case, in torch or in another runtime."""
        place = (case, elsewhere)
        if place not in self.noises:
            inputs, outputs = self.cases[case].inputs, self.outputs[case]
            self.noises[place] = rounding(self.program, inputs, outputs, elsewhere=elsewhere)
        return self.noises[place]


def _probes(program: Program, example: Flat) -> list[Binding]:
    """Cases that no user gave, where the program runs on them; masks may not make a finite output infinite or NaN."""
    masks = hiding(program)
    if masks and not are_finite(masks.outputs_of(program)) and are_finite(example):
        masks = None
    return [case for case in (tiny(program), masks) if case]


@dataclass
class Outcome:
    """What a pipeline left.

    Attributes:
        program: the rewritten program; the original where nothing was kept.
        reference: what exact passes, backends and files must reproduce: the original, or what the last lossy pass left.
        steps: one record per pass, in order.
        exact: what exact passes had made before the first lossy pass that was kept; None where none was.
    """

    program: Program
    reference: Reference
    steps: list[StepRecord] = field(default_factory=list)
    exact: Program | None = None


Repair = Callable[[Program, Program, Context], tuple[Program, list[SiteRecord]]]
"""Takes a program before and after a lossy pass and the pass's context; gives a better one, and what was done."""


@dataclass
class Lossy:
    """What lossy passes may use and spend.

    Attributes:
        quality: the budget.
        data: calibration and held-out inputs.
        target: the device that decides what pays.
        repair: run after each lossy pass.
        seed: of everything random.
        backend: that the program is made for, or "auto".
    """

    quality: Quality
    data: Data
    target: Target = field(default_factory=detect)
    repair: Repair | None = None
    seed: int = 0
    backend: str = "auto"

    def context(self) -> Context:
        """What a pass is given."""
        return Context(
            calibration=self.data.calibration, target=self.target, backend=self.backend, seed=self.seed,
            quality=self.quality,
        )  # fmt: skip


def run(
    program: Program,
    passes: Sequence[Pass],
    reference: Reference | None = None,
    progress: Progress | None = None,
    limit: Callable[[Pass, Site], bool] | None = None,
    lossy: Lossy | None = None,
) -> Outcome:
    """Apply passes in order, repeating the exact ones until a fixed point; the input program is not changed.

    A pass that raises, leaves a program that is not well formed or changes the interface is dropped, with its reason
    in its record; so is an exact one that moves an output, and a lossy one that spends more than the budget. Without
    ``lossy`` the budget is zero, in agreement with the program on its example inputs.
    """
    progress = progress or Silent()
    reference = reference or Reference.of(program)
    outcome = Outcome(program, reference)
    if lossy is None and not all(item.exact for item in passes):
        data = Data.split(program.inputs, ())
        lossy = Lossy(Quality.of(program, None, 0.0, data), data)
    progress.stage("passes", len(passes))
    for sweep in range(SWEEPS):
        before = len(outcome.steps)
        for item in passes:
            if sweep and not item.exact:
                continue
            _step(outcome, item, lossy, limit, repeat=sweep > 0)
            progress.advance(0 if sweep else 1, render_one(item))
        if not any(step.status == "kept" for step in outcome.steps[before:]):
            break
    return outcome


def extend(outcome: Outcome, passes: Sequence[Pass], lossy: Lossy | None = None) -> Outcome:
    """What further passes make of an outcome, each applied once and verified; the given one is not changed."""
    made = Outcome(outcome.program, outcome.reference, list(outcome.steps), outcome.exact)
    for item in passes:
        _step(made, item, lossy, None, repeat=False)
    return made


def _step(
    outcome: Outcome, item: Pass, lossy: Lossy | None, limit: Callable[[Pass, Site], bool] | None, *, repeat: bool
) -> None:
    spec = render_one(item)
    if repeat and any(step.spec == spec and step.status == "dropped" for step in outcome.steps):
        return
    started = time.perf_counter()
    context = lossy.context() if lossy is not None else Context()
    context.limit = None if limit is None else lambda site: limit(item, site)
    record = StepRecord(spec=spec, status="unchanged", exact=item.exact, nodes_before=_count(outcome.program))
    candidate = attempt(outcome, item, context, lossy, record)
    record.sites = [SiteRecord(site.node, site.detail, site.origin) for site in context.taken]
    record.skipped = [SiteRecord(site.node, site.detail, site.origin) for site in context.skipped]
    record.precision = context.precision
    record.nodes_after = _count(candidate or outcome.program)
    record.seconds = time.perf_counter() - started
    if candidate is not None:
        if not item.exact and outcome.exact is None:
            outcome.exact = outcome.program
        outcome.program = candidate
        if not item.exact:
            outcome.reference = outcome.reference.moved(candidate)
    if not repeat or record.status != "unchanged":
        outcome.steps.append(record)


def attempt(outcome: Outcome, item: Pass, context: Context, lossy: Lossy | None, record: StepRecord) -> Program | None:
    """One pass on a clone; the clone if it is kept, None otherwise. Fills the record's status, reason and parity."""
    program = outcome.program
    candidate = program.clone()
    versions = _versions(program)
    try:
        item(candidate, context)
        if _versions(program) != versions:
            raise WrittenInto(
                f"pass {record.spec} wrote into a weight of the original", "replace weights, see add_weight"
            )
        if not context.taken:
            return None
        refresh(candidate)
        candidate.prune_weights()
        problem = structure(outcome.reference.program, candidate)
        if problem is None and item.exact:
            record.parity = outcome.reference.judge(
                f"after {record.spec} against {outcome.reference.name}", candidate.run_flat
            )
            problem = failure(record.parity)
        elif problem is None and lossy is not None:
            candidate, problem = _spend(program, candidate, context, lossy, record)
    except WrittenInto:
        raise
    except TersorError as error:
        problem = str(error)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    record.status, record.reason = ("kept", "") if problem is None else ("dropped", problem)
    return candidate if problem is None else None


def _spend(
    before: Program, candidate: Program, context: Context, lossy: Lossy, record: StepRecord
) -> tuple[Program, str | None]:
    """Repair what a lossy pass damaged, and ask whether the budget allows what is left."""
    record.parity = context.proofs
    if lossy.repair is not None:
        candidate, record.repaired = lossy.repair(before, candidate, context)
    record.quality = lossy.quality.measure(candidate)
    return candidate, lossy.quality.problem(record.quality)


def _count(program: Program) -> int:
    return sum(1 for node in program.nodes if node.op == "call_function")


def _versions(program: Program) -> list[int]:
    return [v._version for v in program.weights.values() if isinstance(v, torch.Tensor) and not v.is_inference()]
