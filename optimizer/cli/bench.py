"""``tersor bench``: which of several models is faster, measured so that the answer holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tersor.cli import options
from tersor.cli.output import print_json, print_table, stdout_kept
from tersor.errors import BackendError, InputError, UsageError

if TYPE_CHECKING:
    from tersor.backend import Compiled
    from tersor.program import Program
    from tersor.report.model import Timing
    from tersor.target import Target


def bench(
    models: Annotated[list[str], typer.Argument(metavar="A [B]...", help=options.MODEL_HELP, show_default=False)],
    backend: Annotated[
        list[str] | None, typer.Option("--backend", metavar="NAME", help="Runtime; repeatable. Default: onnxruntime.")
    ] = None,
    target: options.TargetName = "cpu",
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Time for each contestant.")] = 3.0,
    dim: options.Dims = None,
    inputs: options.Inputs = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure models side by side: interleaved runs, medians, quartiles, ratios to the first."""
    from tersor.progress import Console, Silent
    from tersor.target import named

    backends = backend or ["onnxruntime"]
    _check(models, backends)
    with stdout_kept(), Silent() if quiet or json else Console() as progress:
        progress.stage("capture", len(models))
        contestants = _contestants(models, backends, named(target), dim, inputs, progress.advance)
        progress.stage(f"measure, about {seconds * len(contestants):.0f} s")
        from tersor.measure import interleaved

        timings = interleaved(contestants, seconds=seconds * len(contestants), seed=seed)
    rows = [{**dataclasses.asdict(timing), "ratio": timings[0].median_ms / timing.median_ms} for timing in timings]
    if json:
        print_json({"first": timings[0].name, "timings": rows})
    else:
        _show(timings)


def _check(models: list[str], backends: list[str]) -> None:
    from tersor.backend import find_backend

    if len(set(models)) < len(models):
        raise UsageError("a model is named twice", "name each once; --backend may be repeated")
    for name in backends:
        reason = find_backend(name).missing()
        if reason:
            raise BackendError(f"backend {name!r} cannot be used here: {reason}")


def _contestants(
    models: list[str],
    backends: list[str],
    target: Target,
    dim: list[str] | None,
    inputs: Path | None,
    advance: Callable[[int, str], None],
) -> dict[str, Callable[[], Any]]:
    """Calls by name, all on the inputs of the first model."""
    found: dict[str, Callable[[], Any]] = {}
    first: Program | None = None
    for model in models:
        program = options.load(model, dim, inputs)
        first = first or program
        feed = _feed(first, program, model)
        for backend in backends:
            name = f"{model} on {backend}" if len(backends) > 1 else model
            found[name] = _bound(_compiled(model, program, backend, target), feed)
        advance(1, model)
    return found


def _feed(first: Program, program: Program, model: str) -> tuple[Any, ...]:
    """The first model's inputs, in the order of this one; by position where the names differ."""
    if len(first.inputs) != len(program.inputs):
        raise InputError(f"{model!r} takes {len(program.inputs)} inputs, the first model {len(first.inputs)}")
    names, wanted = first.interface.input_names, program.interface.input_names
    order = [names.index(name) for name in wanted] if set(names) == set(wanted) else range(len(names))
    feed = tuple(first.inputs[position] for position in order)
    try:
        program.check_inputs(feed)
    except InputError as error:
        raise InputError(f"{model!r} does not take the inputs of the first model: {error}") from None
    return feed


def _compiled(model: str, program: Program, backend: str, target: Target) -> Compiled:
    """An ONNX file runs in ONNX Runtime as it is, anything else through the program."""
    from tersor.backend import find_backend

    if backend == "onnxruntime" and Path(model).is_file():
        from tersor.export.runtime import Session

        session = Session(model, target.threads, target.device)
        return lambda *inputs: session.run(inputs)
    return find_backend(backend).compile(program, target)


def _bound(call: Compiled, feed: tuple[Any, ...]) -> Callable[[], Any]:
    return lambda: call(*feed)


def _show(timings: list[Timing]) -> None:
    from tersor.report.summary import milliseconds

    rows = [
        (
            timing.name,
            milliseconds(timing.median_ms),
            f"{timing.low_ms:.3g} to {timing.high_ms:.3g}",
            str(timing.runs),
            f"{timings[0].median_ms / timing.median_ms:.2f}x",
        )
        for timing in timings
    ]
    print_table(("model", "median", "quartiles, ms", "runs", "speed"), rows, right=(1, 2, 3, 4))
