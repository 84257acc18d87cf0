"""Optimize a module that cannot be captured whole, sub-module by sub-module."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tersor.capture.partial import Part, capture_parts, substitute
from tersor.check import compare, failure
from tersor.errors import CaptureError, ExportError, ParityError, TersorError
from tersor.optimized import Optimized
from tersor.report.model import ModelFacts, Parity, Report, StepRecord

if TYPE_CHECKING:
    from tersor.api import Request


@dataclass
class OptimizedParts:
    """A module whose capturable sub-modules were optimized and put back.

    Attributes:
        module: runs like the original.
        report: of all parts together.
        parts: the optimized sub-modules by path.
    """

    module: torch.nn.Module
    report: Report
    parts: dict[str, Optimized]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The original's result."""
        with torch.no_grad():
            return self.module(*args, **kwargs)

    def to_onnx(self, path: str | Path, opset: int | None = None) -> Path:
        """Not possible: raises ExportError naming the parts that can be written."""
        raise ExportError("the model could not be captured whole", f"export its parts: {', '.join(self.parts)}")

    save = to_onnx


def optimize_parts(request: Request, report: Report, error: CaptureError) -> OptimizedParts:
    """Optimize the largest exportable sub-modules and put them back; raises CaptureError if there is none."""
    with request.stage("capture"):
        parts, refused = capture_parts(request.model, request.inputs)
    if not parts:
        raise error
    report.notes.append(f"the model cannot be captured whole: {error}")
    report.notes += [f"sub-module {path} cannot be captured: {reason}" for path, reason in refused.items()]
    optimized: dict[str, Optimized] = {}
    for part in parts:
        _optimize_part(part, request, report, optimized)
    module = substitute(request.model, dict(optimized))
    _verify(request, module, report)
    report.stages = dict(request.stages)
    return OptimizedParts(module, report, optimized)


def _optimize_part(part: Part, request: Request, report: Report, optimized: dict[str, Optimized]) -> None:
    from tersor.api import optimize_program

    own = Report(part.path, report.pipeline, report.target)
    narrowed = replace(request, calibration=(), stages={})
    try:
        optimized[part.path] = optimize_program(part.program, narrowed, own)
    except TersorError as error:
        report.notes.append(f"sub-module {part.path} is left as it was: {error}")
        return
    report.notes.append(f"sub-module {part.path} was captured and optimized, on {own.backend}")
    report.steps += [_named(step, part.path) for step in own.steps]
    report.parity += own.parity
    report.timings += [replace(timing, name=f"{part.path}: {timing.name}") for timing in own.timings]
    report.before, report.after = _sum(report.before, own.before), _sum(report.after, own.after)
    report.backend = own.backend


def _named(step: StepRecord, path: str) -> StepRecord:
    return replace(step, spec=f"{path}: {step.spec}")


def _sum(total: ModelFacts, part: ModelFacts) -> ModelFacts:
    operators = {
        name: total.operators.get(name, 0) + part.operators.get(name, 0)
        for name in {**total.operators, **part.operators}
    }
    flops = None if part.flops is None else (total.flops or 0) + part.flops
    return replace(
        total,
        operators=operators,
        parameters=total.parameters + part.parameters,
        parameter_bytes=total.parameter_bytes + part.parameter_bytes,
        flops=flops,
    )


def _verify(request: Request, module: torch.nn.Module, report: Report) -> None:
    """The whole model, before and after, on the example inputs."""
    from torch.utils import _pytree as pytree

    from tersor.capture.torch import split_inputs

    args, kwargs = split_inputs(request.inputs)
    with torch.no_grad():
        wanted = pytree.tree_leaves(request.model(*args, **kwargs))
        got = pytree.tree_leaves(module(*args, **kwargs))
    names = [f"output {position}" for position in range(len(wanted))]
    # Detectors sort and suppress boxes by score, which amplifies rounding: ten times the exact tolerance.
    parity: Parity = compare("the whole model with its parts replaced", names, tuple(wanted), tuple(got), {}, looser=10)
    report.parity.append(parity)
    problem = failure([parity])
    if problem:
        raise ParityError(f"putting the optimized parts back changes the result: {problem}", "report this model")
