"""``tersor bisect``: which pass, and which single edit of it, makes a pipeline wrong."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from tersor.cli import options
from tersor.cli.output import print_json, stdout_kept

if TYPE_CHECKING:
    from tersor.bisect import Culprit


def bisect(
    model: options.Model,
    passes: Annotated[
        str,
        typer.Option("--passes", metavar="SPEC", help='Pipeline, as "name,name{option=value}".', show_default=False),
    ],
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="SHARE", help="What lossy passes may lose of the agreement, e.g. 1%."),
    ] = None,
    dim: options.Dims = None,
    inputs: options.Inputs = None,
    json: options.Json = False,
) -> int:
    """Find the first wrong pass and site of a pipeline; the exit code is 7 where there is one."""
    with stdout_kept():
        from tersor.bisect import bisect as search
        from tersor.spec import parse

        pipeline = parse(passes)
        allowed = None if budget is None else options.fraction(budget)
        culprit = search(options.load(model, dim, inputs), pipeline, budget=allowed)
    if json:
        print_json({"model": model, "passes": passes, "culprit": _plain(culprit)})
    else:
        _show(culprit)
    if culprit is None:
        return 0
    from tersor.errors import ParityError

    return ParityError.exit_code


def _plain(culprit: Culprit | None) -> dict[str, object] | None:
    return None if culprit is None else dataclasses.asdict(culprit)


def _show(culprit: Culprit | None) -> None:
    if culprit is None:
        print("every pass of the pipeline leaves the outputs as they were")
        return
    print(f"pass     {culprit.spec}")
    if culprit.site is not None:
        came = f", from {culprit.site.origin}" if culprit.site.origin else ""
        print(f"site     {culprit.site.node}{came}: {culprit.site.detail}")
    print(f"problem  {culprit.problem}")
    print(f"tried    {culprit.tried} programs")
