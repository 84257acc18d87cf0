"""Run passes over a program, each one verified: clone, apply, refresh, judge, keep or drop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from tersor.bindings import Binding, bindings, runs
from tersor.check import EXACT, failure, judge, structure
from tersor.context import Context, Pass, Site
from tersor.errors import CaptureError, RewriteError, TersorError
from tersor.interface import Flat
from tersor.noise import rounding
from tersor.program import Program
from tersor.progress import Progress, Silent
from tersor.refresh import refresh
from tersor.report.model import Parity, SiteRecord, StepRecord
from tersor.spec import render_one

SWEEPS = 4
"""Exact passes are repeated until none finds a site, at most this often."""


class WrittenInto(RewriteError):
    """A pass changed the original's weights in place, which no rollback can undo: the run ends."""


@dataclass
class Reference:
    """The original's outputs, against which every step is judged.

    Attributes:
        program: the original.
        cases: sizes and inputs.
        outputs: the original's outputs at each case.
        noises: the original's own rounding error per output, by case; computed when first asked for.
    """

    program: Program
    cases: list[Binding]
    outputs: list[Flat]
    noises: dict[int, list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Program, extra: Sequence[Flat] = ()) -> Reference:
        """Run the original once at every binding; raises CaptureError where it does not run on its own example."""
        try:
            example = program.run(program.inputs)
        except Exception as error:
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CaptureError(f"the captured program does not run on the example inputs: {line}") from error
        cases = [*bindings(program, extra), *_probes(program)]
        outputs = [example, *(program.run(case.inputs) for case in cases[1:])]
        return cls(program, cases, outputs)

    def judge(self, what: str, run: Callable[..., Flat], floor: float = 0.0) -> list[Parity]:
        """Compare another implementation with the original at every binding."""
        names = self.program.interface.output_names
        return judge(what, self.outputs, run, self.cases, names, self.noise, floor)

    def noise(self, case: int) -> list[float]:
        """How far rounding alone moves the original's outputs at one case."""
        if case not in self.noises:
            self.noises[case] = rounding(self.program, self.cases[case].inputs, self.outputs[case])
        return self.noises[case]


def _probes(program: Program) -> list[Binding]:
    """The example inputs made small, where an epsilon inside a normalisation decides the result."""
    if not any(value.dtype in EXACT for value in program.inputs):
        return []
    small = tuple(value * 1e-3 if value.dtype in EXACT else value for value in program.inputs)
    example = {dimension.name: dimension.hint * dimension.step for dimension in program.dimensions.values()}
    return [Binding(example, small)] if runs(program, small) else []


@dataclass
class Outcome:
    """What a pipeline left.

    Attributes:
        program: the rewritten program; the original where nothing was kept.
        steps: one record per pass, in order.
    """

    program: Program
    steps: list[StepRecord] = field(default_factory=list)


def run(
    program: Program,
    passes: Sequence[Pass],
    reference: Reference | None = None,
    progress: Progress | None = None,
    limit: Callable[[Pass, Site], bool] | None = None,
) -> Outcome:
    """Apply passes in order, repeating the exact ones until a fixed point; the input program is not changed.

    A pass that raises, leaves a program that is not well formed, changes the interface or moves an output is
    dropped, with its reason in its record.
    """
    progress = progress or Silent()
    reference = reference or Reference.of(program)
    outcome = Outcome(program)
    progress.stage("passes", len(passes))
    for sweep in range(SWEEPS):
        before = len(outcome.steps)
        for item in passes:
            if sweep and not item.exact:
                continue
            _step(outcome, item, reference, limit, repeat=sweep > 0)
            progress.advance(0 if sweep else 1, render_one(item))
        if not any(step.status == "kept" for step in outcome.steps[before:]):
            break
    return outcome


def _step(
    outcome: Outcome, item: Pass, reference: Reference, limit: Callable[[Pass, Site], bool] | None, *, repeat: bool
) -> None:
    spec = render_one(item)
    if repeat and any(step.spec == spec and step.status == "dropped" for step in outcome.steps):
        return
    started = time.perf_counter()
    context = Context(limit=None if limit is None else lambda site: limit(item, site))
    record = StepRecord(spec=spec, status="unchanged", exact=item.exact, nodes_before=_count(outcome.program))
    candidate = attempt(outcome.program, item, context, reference, record)
    record.sites = [SiteRecord(site.node, site.detail, site.origin) for site in context.taken]
    record.skipped = [SiteRecord(site.node, site.detail, site.origin) for site in context.skipped]
    record.nodes_after = _count(candidate or outcome.program)
    record.seconds = time.perf_counter() - started
    outcome.program = candidate or outcome.program
    if not repeat or record.status != "unchanged":
        outcome.steps.append(record)


def attempt(program: Program, item: Pass, context: Context, reference: Reference, record: StepRecord) -> Program | None:
    """One pass on a clone; the clone if it is kept, None otherwise. Fills the record's status, reason and parity."""
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
        problem = structure(reference.program, candidate)
        if problem is None:
            record.parity = reference.judge(f"after {record.spec} against the original", candidate.run_flat)
            problem = failure(record.parity)
    except WrittenInto:
        raise
    except TersorError as error:
        problem = str(error)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    record.status, record.reason = ("kept", "") if problem is None else ("dropped", problem)
    return candidate if problem is None else None


def _count(program: Program) -> int:
    return sum(1 for node in program.nodes if node.op == "call_function")


def _versions(program: Program) -> list[int]:
    return [v._version for v in program.weights.values() if isinstance(v, torch.Tensor) and not v.is_inference()]
