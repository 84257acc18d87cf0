"""What commands print and write: JSON alone on standard output, tables, and paths checked before any work."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tersor.errors import OutputError, UsageError

if TYPE_CHECKING:
    from tersor.report.model import Report

REPORT_KINDS = (".html", ".json", ".txt")


@contextlib.contextmanager
def stdout_kept() -> Iterator[None]:
    """Whatever libraries print goes to standard error, so that standard output holds the result alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def print_json(value: Any) -> None:
    """Print plain values as JSON; numbers that JSON lacks become strings."""
    from tersor.report.to_json import plain

    print(json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Columns with a header, as wide as the terminal; not cut where the output is a pipe."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def check_output(path: Path, *, force: bool, source: str = "") -> None:
    """Raise OutputError where ``path`` cannot be written, or exists and ``force`` is not given."""
    check_folder(path)
    if source and Path(source).exists() and path.exists() and path.samefile(source):
        raise OutputError(f"{str(path)!r} is the input itself", "choose another output")
    if path.exists() and not force:
        raise OutputError(f"{str(path)!r} already exists", "choose another name, or give --force to replace it")
    if path.suffix and path.is_dir():
        raise OutputError(f"{str(path)!r} is a folder", "give a file name")


def check_folder(path: Path) -> None:
    """Raise OutputError where the folder of ``path`` is missing or not writable."""
    parent = path.parent
    if not parent.is_dir():
        raise OutputError(f"folder {str(parent)!r} does not exist", "create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"folder {str(parent)!r} cannot be written", "choose another folder")


def check_report(path: Path, *, force: bool) -> None:
    """Raise UsageError for a suffix that is no report, OutputError where the file cannot be written."""
    if path.suffix not in REPORT_KINDS:
        raise UsageError(f"--report is {str(path)!r}", f"end it in one of {', '.join(REPORT_KINDS)}")
    check_output(path, force=force)


def write_report(report: Report, path: Path) -> None:
    """Write the report in the form that the suffix names, whole or not at all."""
    if path.suffix == ".html":
        report.html(path)
        return
    from tersor.report.html import write_text

    write_text(report.json() if path.suffix == ".json" else report.text(), path)
