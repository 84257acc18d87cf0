"""Tables of results: written to docs/results with machine, versions and date."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "results"


def write(name: str, title: str, text: str, command: str = "") -> Path:
    """Write one table and how it was made: by the script of its name, or by another command in this folder."""
    from tersor.provenance import environment

    made = environment(0)
    versions = ", ".join(f"{key} {value}" for key, value in made.items() if key not in ("machine", "date", "seed"))
    by = f"Written by `benchmarks/{command or f'{name}.py'} --write`."
    head = f"# {title}\n\n{made['date']}, {made['machine']}. {versions}.\n\n{by}\n"
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.md"
    path.write_text(f"{head}\n{text}\n", encoding="utf-8")
    return path


def table_rows(name: str) -> Iterator[list[str]]:
    """Cells of every row of the tables of a file in docs/results, between bars of their own."""
    for line in (FOLDER / f"{name}.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.split("|")]


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Rows of an earlier run by model, the last one of each; nothing where there is no file."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return {row["model"]: row for row in rows}


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a file, with the day."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**row, "date": datetime.now(UTC).date().isoformat()}) + "\n")
