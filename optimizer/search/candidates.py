"""What may be chosen: every pass's own settings for a program and a target."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from tersor.backend import find_backend
from tersor.context import Pass
from tersor.errors import UsageError
from tersor.program import Program
from tersor.search.order import place
from tersor.search.trial import Choice
from tersor.spec import pass_class, pass_names, render_one
from tersor.target import Target

Row = tuple[Choice, ...]
"""The settings of one pass, the mildest first."""


def candidates(
    program: Program, target: Target, backend: str = "auto", names: Iterable[str] | None = None
) -> tuple[tuple[Row, ...], dict[str, str]]:
    """One row per pass that has something to offer, in the order of application; why others are not among them.

    Args:
        program: what the passes will be applied to.
        target: the device.
        backend: that the program is made for; settings for another are left out.
        names: passes to ask; None asks all.
    """
    rows: list[Row] = []
    refused: dict[str, str] = {}
    for name in sorted(names if names is not None else pass_names(), key=place):
        chosen = getattr(pass_class(name), "choices", None)
        if chosen is None:
            continue
        try:
            offered = tuple(chosen(program, target))
        except Exception as error:
            refused[name] = f"its settings cannot be listed: {type(error).__name__}: {error}".splitlines()[0]
            continue
        usable = [item for item in offered if _fits(item, backend, refused)]
        row = tuple(Choice(name, level, item, render_one(item)) for level, item in enumerate(usable))
        if row:
            rows.append(row)
        elif not offered:
            refused[name] = f"it has nothing to offer for this model on {target.name}"
    return tuple(rows), refused


def _fits(item: Pass, backend: str, refused: dict[str, str]) -> bool:
    """Whether a setting is for a backend that may be used; remembers why where it is not."""
    wanted = getattr(item, "backend", "auto")
    if wanted in ("auto", backend) or not _is_override(item):
        return True
    problem = f"it is made for {wanted}, and {backend} is wanted" if backend != "auto" else _missing(wanted)
    if problem:
        refused[render_one(item)] = problem
    return not problem


def _is_override(item: Pass) -> bool:
    """Whether the user of the pass asked for another backend than the pass does by itself."""
    default = inspect.signature(type(item)).parameters.get("backend")
    return default is not None and getattr(item, "backend", None) != default.default


def _missing(backend: str) -> str:
    try:
        return find_backend(backend).missing() or ""
    except UsageError:
        return f"there is no backend {backend!r}"
