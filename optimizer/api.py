"""`optimize()`: capture, rewrite, verify, lower, measure, report."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from tersor import capture, spec
from tersor.artefact import checked_writer
from tersor.axes.summary import summarize
from tersor.calibration_data import Files, calibration_inputs, listed
from tersor.context import Pass
from tersor.cost.record import record
from tersor.errors import BackendError, CaptureError, UsageError
from tersor.facts import facts, picture
from tersor.lower import lower
from tersor.optimized import Optimized
from tersor.pipeline import Lossy, Outcome, Reference, run
from tersor.planned import asked, planned_passes
from tersor.progress import Console, Progress, Silent
from tersor.provenance import describe_source, environment, fingerprint, reproduce
from tersor.quality import Data, Metric, Quality
from tersor.quant.seen import smallest
from tersor.repair import METHODS, repairer
from tersor.report.model import QualityRecord, Report
from tersor.search.order import check
from tersor.search.plan import Settings
from tersor.target import Target, named

CHECKED = 4
"""So many calibration inputs, the smallest, are also run by every check of an exact pass."""


@dataclass
class Request:
    """What the user asked for, checked.

    Attributes:
        passes: the pipeline.
        metric, budget, recover: for lossy passes, see `optimize`.
        seconds: time spent measuring each backend; 0 measures nothing.
        search: what the planner is asked; None where the pipeline is given.
    """

    model: Any
    inputs: Any
    dynamic: Any
    target: Target
    backend: str
    passes: tuple[Pass, ...]
    calibration: tuple[Any, ...]
    metric: Metric | None
    budget: float
    recover: str
    sizes: Mapping[str, int] | None
    opset: int | None
    seconds: float
    seed: int
    progress: Progress
    search: Settings | None = None
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage and time it."""
        self.progress.stage(name, None)
        started = time.perf_counter()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - started


def optimize(
    model: Any,
    inputs: Any = None,
    *,
    dynamic: Any = None,
    target: str | Target = "cpu",
    backend: str = "auto",
    passes: str | Iterable[Any] | None = None,
    calibration: Iterable[Any] | str | Path | Files = (),
    metric: Metric | None = None,
    budget: float = 0.0,
    latency: float | str | None = None,
    recover: str | None = None,
    progress: bool | Progress = True,
    opset: int | None = None,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    seconds: float = 2.0,
    study: str | Path | None = None,
    resume: bool = False,
) -> Any:
    """Make a trained model fast, and prove that it still computes the same.

    Args:
        model: `torch.nn.Module` in evaluation mode, `ExportedProgram`, `GraphModule`, ONNX path, `onnx.ModelProto`,
            `onnx_ir.Model`, or a zoo name.
        inputs: example inputs, tuple or dict of tensors; optional for ONNX and zoo names.
        dynamic: dynamic dimensions, as torch.export takes them.
        target: "cpu", "cuda", or a `Target`.
        backend: "auto" measures the installed ones and keeps the fastest.
        passes: a pipeline as text, or pass objects; None runs every exact pass, and where a budget or a latency is
            given lets the planner choose others too.
        calibration: further, unlabelled example inputs, or files and folders of them, see `tersor.calibration_data`.
            Lossy passes take their statistics from three quarters of
            them and are judged on the rest; the smallest few are also checked by every exact pass.
        metric: called with a model that has the original's signature, returns a number, higher is better; None judges
            lossy passes by how closely the outputs follow the original's.
        budget: share of the metric that lossy passes may lose in total, 0 to 1. With 0 none that loses is kept.
        latency: wanted milliseconds of one run, or text such as "5ms" or "50%" of the original's time. The planner
            takes what loses least among what reaches it, and otherwise the fastest; without it the fastest.
        recover: what repairs a lossy pass: "least-squares" (None means that), "bias", "distill" or "none".
        progress: True shows a progress bar on a terminal.
        opset: ONNX opset of what is exported; None lets the exporter choose.
        seed: of everything random.
        sizes: example sizes of an ONNX file's dynamic dimensions, by name.
        seconds: time spent measuring each backend; 0 measures nothing and keeps the first that works.
        study: file, or URL of a database, where the planner keeps its trials; None is a file in the user's cache
            directory.
        resume: go on with an earlier search for the same, or work together with one that runs.

    Returns:
        An `Optimized`: a callable with the original's signature and output structure, and `.report`, `.save`,
        `.to_onnx`, and `.pareto`, what the planner found that nothing beats in both time and quality. Where a module
        cannot be captured whole, an `OptimizedParts`: a module with the optimized sub-modules in place.

    Raises:
        TersorError: one of its kinds; the model is never changed.
    """
    search = asked(passes, budget, latency, study, resume, seconds)
    shown = Console() if progress is True else Silent() if progress is False else progress
    pipeline = _pipeline(passes)
    if search is not None or not all(item.exact for item in pipeline):
        metric, calibration = _own_data(model, metric, listed(calibration))
    request = Request(
        model, inputs, dynamic, named(target), backend, pipeline, listed(calibration), metric,
        _share(budget), _method(recover), sizes, opset, seconds, seed, shown, search,
    )  # fmt: skip
    with shown:
        return optimize_request(request)


def optimize_request(request: Request) -> Any:
    """`optimize` with its arguments checked."""
    report = _new_report(request)
    try:
        with request.stage("capture"):
            original = capture.load(request.model, request.inputs, request.dynamic, request.sizes)
    except CaptureError as error:
        return _without_capture(request, report, error)
    if not _is_file(request.model) or request.backend not in ("auto", "onnxruntime"):
        return optimize_program(original, request, report)
    try:
        return optimize_program(original, request, report)
    except (BackendError, CaptureError) as error:
        return _keep(request, report, str(error))
    except (RuntimeError, ValueError, TypeError, AssertionError, LookupError) as error:
        # A fault of ours: the file still runs as it is, and the report says what happened.
        return _keep(request, report, f"internal error, please report it: {type(error).__name__}: {error}")


def optimize_program(original: Any, request: Request, report: Report) -> Optimized:
    """Everything after capture."""
    reference, outcome = _rewrite(original, request, report)
    with request.stage("lower and measure"):
        lowered = lower(reference, outcome, request.target, request.backend, request.seconds, report)
    record(report, original, lowered.program, request.target)
    report.stages = dict(request.stages)
    judged = outcome.reference if lowered.program is outcome.program else reference
    writer = checked_writer(lowered.program, judged, request.opset)
    if _is_file(request.model):
        from tersor.verbatim import or_original

        writer = or_original(writer, request.model, report)
    return Optimized(original.interface, lowered.call, report, writer, lowered.program, original, lowered.backend)


def plan(
    model: Any, inputs: Any = None, *, dynamic: Any = None, passes: Any = None, target: str | Target = "cpu",
    sizes: Mapping[str, int] | None = None, progress: Progress | None = None,
) -> Report:  # fmt: skip
    """What `optimize` would do to the graph with no limit on what lossy passes lose; lowers and measures nothing."""
    request = Request(
        model, inputs, dynamic, named(target), "none", _pipeline(passes), (), None, 1.0, "none", sizes, None, 0.0, 0,
        progress or Silent(),
    )  # fmt: skip
    report = _new_report(request)
    with request.stage("capture"):
        original = capture.load(model, inputs, dynamic, sizes)
    _rewrite(original, request, report)
    report.stages = dict(request.stages)
    return report


def _rewrite(original: Any, request: Request, report: Report) -> tuple[Reference, Outcome]:
    report.notes += original.notes
    report.model_hash, report.data_hash = fingerprint(original)
    with request.stage("reference"):
        extra = calibration_inputs(original, request.calibration)
        own = [] if original.given is None else [original.given]
        reference = Reference.of(original, own + smallest(extra, CHECKED))
        lossy = _lossy(original, extra, request, report)
    passes = request.passes
    if request.search is not None and lossy is not None:
        passes = planned_passes(original, extra, reference, lossy, request, report)
    with request.stage("passes"):
        outcome = run(original, passes, reference, request.progress, lossy=lossy)
    report.steps = outcome.steps
    report.before, report.after = facts(original), facts(outcome.program)
    report.picture_before = picture(original, outcome.program, mark="removed")
    report.picture_after = picture(outcome.program, original)
    report.parity = outcome.reference.judge(
        f"rewritten program against {outcome.reference.name}", outcome.program.run_flat
    )
    if lossy is not None:
        report.groups = summarize(original)[0]
        report.quality = QualityRecord(
            lossy.quality.name, lossy.quality.original, lossy.quality.measure(outcome.program), request.budget
        )
    return reference, outcome


def _lossy(original: Any, extra: list[Any], request: Request, report: Report) -> Lossy | None:
    """What lossy passes may use and spend; None where there are none."""
    if request.search is None and all(item.exact for item in request.passes):
        return None
    data = Data.split(original.inputs, extra)
    if request.metric is None and not extra:
        report.notes.append("lossy passes were judged on the example inputs alone: give calibration data or a metric")
    quality = Quality.of(original, request.metric, request.budget, data)
    told = request.progress if request.search is None else Silent()
    repair = repairer(request.recover, told, request.seed)
    return Lossy(quality, data, request.target, repair, request.seed, request.backend)


def _without_capture(request: Request, report: Report, error: CaptureError) -> Any:
    if isinstance(request.model, torch.nn.Module):
        from tersor.parts import optimize_parts

        if request.search is not None:
            report.notes.append("the planner needs the whole model: only exact passes were applied to its parts")
        return optimize_parts(replace(request, search=None), report, error)
    if _is_file(request.model):
        return _keep(request, report, str(error))
    raise error


def _is_file(model: Any) -> bool:
    named = isinstance(model, str | Path) and not str(model).startswith(capture.ZOO_PREFIXES)
    return named or capture.is_onnx(model)


def _keep(request: Request, report: Report, reason: str) -> Optimized:
    """An ONNX file that runs as it is stays usable, whatever we cannot do with it."""
    from tersor.verbatim import keep

    report.stages = dict(request.stages)
    return keep(request.model, " ".join(reason.split()), report)


def _new_report(request: Request) -> Report:
    report = Report(describe_source(request.model), spec.render(request.passes), request.target.name)
    report.environment = environment(request.seed)
    report.command = reproduce(request.model, report, request.backend, request.seed)
    return report


def _pipeline(passes: str | Iterable[Any] | None) -> tuple[Pass, ...]:
    if passes is None:
        from tersor.passes import EXACT

        return spec.parse(EXACT)
    parsed = spec.parse(passes)
    check(parsed)
    return parsed


def _own_data(model: Any, metric: Metric | None, calibration: tuple[Any, ...]) -> tuple[Metric | None, tuple[Any, ...]]:
    """A zoo model brings its own metric and calibration data."""
    if not (isinstance(model, str) and model.startswith("zoo:")) or metric is not None or calibration:
        return metric, calibration
    from tersor.models_zoo.catalog import load

    entry = load(model)
    return entry.evaluator, tuple(entry.calibration)


def _share(budget: float) -> float:
    if not 0.0 <= budget <= 1.0:
        raise UsageError(f"budget is {budget}, wanted a share from 0 to 1", "for example budget=0.01 for one percent")
    return budget


def _method(recover: str | None) -> str:
    if recover is None:
        return METHODS[0]
    if recover not in METHODS:
        near = get_close_matches(str(recover), METHODS, n=1)
        raise UsageError(f"recover is {recover!r}", f"did you mean {near[0]!r}?" if near else f"one of {METHODS}")
    return recover
