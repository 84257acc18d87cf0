"""The command ``tersor``: one file per subcommand. Nothing here imports torch before a command runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, and never raises on bad input.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    from tersor.cli.app import command
    from tersor.cli.guard import guarded

    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    return guarded(lambda: command()(args=given, prog_name="tersor", standalone_mode=False, obj=given), debug=debug)


__all__ = ["main"]
