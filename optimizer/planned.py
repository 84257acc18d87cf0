"""What stands between `optimize()` and the planner: what was asked, and the pipeline that came out of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from tersor import spec
from tersor.calibration_data import Files
from tersor.context import Pass
from tersor.errors import UsageError
from tersor.pipeline import Lossy, Reference, run
from tersor.program import Program
from tersor.provenance import digest, reproduce
from tersor.report.model import Report
from tersor.search.order import CLEAN
from tersor.search.plan import Planner, Settings
from tersor.search.wanted import latency as wanted_latency

if TYPE_CHECKING:
    from tersor.api import Request

QUICK = 0.5
"""Seconds that the planner measures each candidate at most."""


def asked(
    passes: Any, budget: float, latency: float | str | None, study: str | Path | None, resume: bool, seconds: float
) -> Settings | None:
    """What the planner is asked; None where there is nothing to plan. Raises UsageError where the wishes contradict."""
    if passes is not None and latency is not None:
        raise UsageError("latency steers the planner, and passes leave it nothing to choose", "give one of the two")
    if passes is not None or (latency is None and not budget):
        if study is not None or resume:
            raise UsageError("there is nothing to search", "give a budget or a latency, and no passes")
        return None
    wanted = None if latency is None else wanted_latency(latency)
    return Settings(wanted, study, resume, min(QUICK, seconds))


def planned_passes(
    original: Program, extra: list[Any], reference: Reference, lossy: Lossy, request: Request, report: Report
) -> tuple[Pass, ...]:
    """The pipeline that the planner chooses; puts its record into the report."""
    assert request.search is not None
    with request.stage("exact passes"):
        start = run(original, request.passes, reference, request.progress)
    facts = {
        "model": report.model_hash, "inputs": report.data_hash, "calibration": digest(extra), "opset": request.opset,
        "recover": request.recover, "exact": report.pipeline, "metric": getattr(request.metric, "__qualname__", ""),
        "version": report.environment.get("tersor", ""),
    }  # fmt: skip
    planner = Planner(original, start, lossy, replace(request.search, facts=facts), request.progress)
    with request.stage("plan"):
        chosen, record = planner.plan()
    passes = (*request.passes, *(item for choice in chosen for item in (choice.item, *spec.parse(CLEAN))))
    report.notes += planner.notes
    report.pipeline, report.plan = spec.render(passes), record
    record.command = reproduce(request.model, report, request.backend, request.seed, _spending(request))
    return passes


def _spending(request: Request) -> dict[str, Any]:
    """What lossy passes may spend and learn from, for the command that does the same again."""
    metric = request.metric
    named = isinstance(metric, FunctionType) and "<" not in metric.__qualname__
    return {
        "budget": request.budget,
        "recover": request.recover,
        "calibration": [str(item) for item in request.calibration if isinstance(item, str | Path | Files)],
        "metric": f"{metric.__module__}:{metric.__qualname__}" if isinstance(metric, FunctionType) and named else "",
    }
