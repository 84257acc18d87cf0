"""Find the pass, and the one site of it, that makes a pipeline wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tersor.check import failure, structure
from tersor.context import Context, Pass, Site
from tersor.pipeline import Reference
from tersor.program import Program
from tersor.quality import Data, Quality
from tersor.refresh import refresh
from tersor.spec import render_one

Judge = Callable[[Program], str | None]
"""Why a program is wrong, in one line; None where it is right."""


@dataclass(frozen=True)
class Culprit:
    """The first fault of a pipeline.

    Attributes:
        spec: the pass, as text.
        site: the one edit that is enough to break the outputs; None where the pass fails as a whole.
        problem: what goes wrong.
        tried: how many programs were judged.
    """

    spec: str
    site: Site | None
    problem: str
    tried: int


def bisect(
    program: Program, passes: Sequence[Pass], verdict: Judge | None = None, *, budget: float | None = None
) -> Culprit | None:
    """The first guilty pass and site, or None where the whole pipeline is right.

    Exact passes are guilty where an output moves; lossy ones where they raise (as a cut does that is not the zeroed
    original), leave a program that is not well formed, or with ``budget`` lose more than this share of the agreement
    with the original on its example inputs. A verdict of the caller's replaces all of these.

    Passes are applied in order without being dropped; the first after which the program is wrong is searched by
    halving its sites, so the number of trials grows with the logarithm of the number of sites.
    """
    given, current, tried = verdict, program, 0
    exact = given or _against(program)
    lossy = given or (_well_formed(program) if budget is None else _within(program, budget))
    for item in passes:
        context = Context(calibration=(current.inputs,))
        judge = exact if item.exact else lossy
        after, problem = _apply(current, item, context, judge)
        tried += 1
        if problem is None:
            current = after or current
            exact = exact if item.exact or given else _against(current)
            continue
        site, more = _guilty(current, item, context.taken, judge)
        return Culprit(render_one(item), site, problem, tried + more)
    return None


def _against(program: Program) -> Judge:
    reference = Reference.of(program)

    def verdict(candidate: Program) -> str | None:
        return structure(program, candidate) or failure(reference.judge("the pipeline", candidate.run_flat))

    return verdict


def _well_formed(program: Program) -> Judge:
    return lambda candidate: structure(program, candidate)


def _within(program: Program, budget: float) -> Judge:
    quality = Quality.of(program, None, budget, Data.split(program.inputs, ()))
    return lambda candidate: structure(program, candidate) or quality.problem(quality.measure(candidate))


def _apply(program: Program, item: Pass, context: Context, verdict: Judge) -> tuple[Program | None, str | None]:
    candidate = program.clone()
    try:
        item(candidate, context)
        if not context.taken:
            return None, None
        refresh(candidate)
        return candidate, verdict(candidate)
    except Exception as error:
        return None, f"{type(error).__name__}: {error}".splitlines()[0]


def _guilty(program: Program, item: Pass, sites: Sequence[Site], verdict: Judge) -> tuple[Site | None, int]:
    """Halve the prefix of sites: the last site of the shortest wrong prefix is the one that breaks it."""
    low, high, tried = 0, len(sites), 0
    while low + 1 < high:
        middle = (low + high) // 2
        tried += 1
        if _prefix_wrong(program, item, sites[:middle], verdict):
            high = middle
        else:
            low = middle
    return (sites[high - 1] if sites else None), tried


def _prefix_wrong(program: Program, item: Pass, allowed: Sequence[Site], verdict: Judge) -> bool:
    remaining = {(site.node, site.detail) for site in allowed}
    context = Context(calibration=(program.inputs,))
    context.limit = lambda site: (site.node, site.detail) in remaining
    _, problem = _apply(program, item, context, verdict)
    return problem is not None
