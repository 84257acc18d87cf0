"""``tersor optimize``: the command that most users need."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tersor.cli import options
from tersor.cli.output import check_output, check_report, stdout_kept, write_report
from tersor.errors import UsageError

if TYPE_CHECKING:
    from tersor.report.model import Report

_ONNX = ".onnx"


def optimize(
    context: typer.Context,
    model: options.Model,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="OUT.onnx, or a folder that runs without Tersor."),
    ] = None,
    passes: options.Passes = None,
    target: options.TargetName = "cpu",
    backend: options.BackendName = "auto",
    deploy: options.Deploy = "",
    report: Annotated[
        list[Path] | None,
        typer.Option("--report", metavar="FILE", help="Also write the report: .html, .json or .txt. Repeatable."),
    ] = None,
    opset: Annotated[int | None, typer.Option("--opset", min=7, help="ONNX opset of OUT.")] = None,
    dim: options.Dims = None,
    inputs: options.Inputs = None,
    budget: Annotated[str, typer.Option("--budget", help="Share of the metric that may be lost, e.g. 1%.")] = "0%",
    latency: options.Latency = None,
    metric: options.MetricName = None,
    calibration: options.Calibration = None,
    tokenizer: options.Tokenizer = None,
    pixels: options.Pixels = "imagenet",
    study: options.Study = None,
    resume: options.Resume = False,
    recover: options.Recover = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.0, help="Time to measure each contestant.")] = 2.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write no model.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace existing outputs.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    seed: options.Seed = 0,
) -> None:
    """Make a model fast, prove that it still computes the same, and write it."""
    if output is None and not dry_run:
        raise UsageError("no output was given", "add -o OUT.onnx, or --dry-run to only see what would be done")
    common: dict[str, Any] = {"passes": passes, "target": target, "sizes": options.sizes(dim) or None}
    rest: dict[str, Any] = {
        "backend": backend, "budget": options.fraction(budget), "opset": opset, "seed": seed, "seconds": seconds,
        "recover": recover, "latency": latency, "study": study, "resume": resume,
    }  # fmt: skip
    _check_outputs(None if dry_run else output, report or [], model, force)
    _check_names(passes, target, backend, deploy)
    _check_plan(passes, rest, dry_run)
    common["inputs"] = options.arrays(inputs)
    rest["calibration"] = options.calibration(calibration, tokenizer, pixels)
    rest["metric"] = options.metric(metric)
    with stdout_kept(), _progress(quiet) as progress:
        done = None if dry_run else _optimized(model, {**common, **rest, "progress": progress})
        made = _planned(model, {**common, "progress": progress}) if done is None else done.report
        made.command = shlex.join(["tersor", *(context.obj or [])])
        if done is not None and output is not None:
            progress.stage("write", None)
            _write(done, output, opset, force, deploy)
        for path in report or []:
            write_report(made, path)
    _show(made, json, quiet)


def _optimized(model: str, wanted: dict[str, Any]) -> Any:
    from tersor import api

    return api.optimize(model, **wanted)


def _planned(model: str, wanted: dict[str, Any]) -> Report:
    from tersor import api

    return api.plan(model, **wanted)


def _progress(quiet: bool) -> Any:
    from tersor.progress import Console, Silent

    return Silent() if quiet else Console()


def _check_outputs(output: Path | None, reports: list[Path], model: str, force: bool) -> None:
    if output is not None:
        if output.suffix not in ("", _ONNX) and not output.is_dir():
            raise UsageError(f"the output is {str(output)!r}", "end it in .onnx, or name a folder without a suffix")
        check_output(output, force=force, source=model)
    for path in reports:
        check_report(path, force=force)


def _check_names(passes: str | None, target: str, backend: str, deploy: str) -> None:
    """Typing errors are told at once, not after the model was captured."""
    from tersor.backend import find_backend
    from tersor.spec import parse
    from tersor.target import named

    named(target)
    for name in (backend, deploy):
        if name not in ("", "auto"):
            find_backend(name)
    if passes is not None:
        parse(passes)


def _check_plan(passes: str | None, rest: dict[str, Any], dry_run: bool) -> None:
    """What the planner is asked must make sense before the model is captured."""
    from tersor.planned import asked

    wanted = asked(passes, rest["budget"], rest["latency"], rest["study"], rest["resume"], rest["seconds"])
    if wanted is not None and dry_run:
        raise UsageError("a plan needs trials, and --dry-run makes none", "give -o OUT, or passes")


def _write(done: Any, output: Path, opset: int | None, force: bool, deploy: str) -> None:
    if output.suffix == _ONNX:
        done.to_onnx(output, opset)
        return
    from tersor.cli.replace import replacing

    with replacing(output, force=force) as folder:
        done.save(folder, deploy or None)


def _show(report: Report, json: bool, quiet: bool) -> None:
    if json:
        print(report.json())
    elif not quiet:
        print(report.text(), end="")
