"""The command and its subcommands, put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from tersor.cli import backends, bench, bisect, compile_kernels, diff, inspect, lint, optimize, passes, predict, targets

_COMMANDS = (
    ("optimize", optimize.optimize),
    ("inspect", inspect.inspect),
    ("bench", bench.bench),
    ("predict", predict.predict),
    ("lint", lint.lint),
    ("diff", diff.diff),
    ("bisect", bisect.bisect),
    ("passes", passes.passes),
    ("backends", backends.backends),
    ("targets", targets.targets),
    ("compile-kernels", compile_kernels.compile_kernels),
)


def command() -> Callable[..., Any]:
    """The command line as a callable of ``args``."""
    return typer.main.get_command(app())


def app() -> typer.Typer:
    """A fresh Typer application."""
    made = typer.Typer(
        name="tersor",
        help="Make trained networks fast: verified rewrites of PyTorch and ONNX models, with a reason for each.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_global)
    for name, function in _COMMANDS:
        made.command(name)(function)
    return made


def _version(wanted: bool) -> None:
    if wanted:
        from tersor import __version__

        print(f"tersor {__version__}")
        raise typer.Exit


def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error comes from; anywhere on the line.")
    ] = False,
) -> None:
    """Options of all commands; ``--debug`` is taken off the line before it is parsed."""
