"""``tersor backends``: what can run a model here."""

from __future__ import annotations

from typing import Any

from tersor.cli import options
from tersor.cli.output import print_json, print_table


def backends(json: options.Json = False) -> None:
    """List the backends, and why one cannot be used here."""
    found = available()
    if json:
        print_json(found)
        return
    rows = [(b["name"], "usable" if b["usable"] else "missing", b["description"], b["reason"]) for b in found]
    print_table(("backend", "", "what it is", "why not"), rows)


def available() -> list[dict[str, Any]]:
    """Every backend as plain values."""
    from tersor.backend import backend_names, find_backend

    found = []
    for name in backend_names():
        backend = find_backend(name)
        reason = backend.missing()
        entry = {"name": name, "description": backend.description, "usable": reason is None, "reason": reason or ""}
        found.append(entry)
    return found
