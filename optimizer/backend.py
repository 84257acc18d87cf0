"""What a backend must offer, and how one is found by name. The backends themselves live in ``backends/``."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol, runtime_checkable

from tersor.errors import UsageError
from tersor.interface import Flat
from tersor.program import Program
from tersor.target import Target

Compiled = Callable[..., Flat]
"""Takes the flat tensor inputs positionally, returns the flat tensor outputs."""


@dataclass(frozen=True)
class Finding:
    """Something a backend would reject or run slowly.

    Attributes:
        node: the node it concerns; empty for the whole program.
        problem: what is wrong.
        remedy: what to do about it.
        fatal: whether the backend refuses the program for it.
    """

    node: str
    problem: str
    remedy: str
    fatal: bool = False


@runtime_checkable
class Backend(Protocol):
    """One runtime: a module in ``backends/`` holds an instance named ``BACKEND``."""

    name: str
    description: str

    def missing(self) -> str | None:
        """Why it cannot be used here, with the remedy; None where it can."""

    def compile(self, program: Program, target: Target) -> Compiled:
        """A callable on flat tensors that records no gradients; raises BackendError."""

    def save(self, program: Program, folder: Path) -> list[Path]:
        """Write files that run without Tersor; returns them."""

    def lint(self, program: Program, target: Target) -> list[Finding]:
        """What it would reject or run slowly."""


def backend_names() -> list[str]:
    """All backends, by file name."""
    package = importlib.import_module("tersor.backends")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


_OPTIONS = re.compile(r"(?P<name>[^{}]*)(?:\{(?P<options>[^{}]*)\})?")


def plain_name(name: str) -> str:
    """A backend's name without its options.

    >>> plain_name("tensorrt{refit=true}")
    'tensorrt'
    """
    return name.partition("{")[0].strip()


def find_backend(name: str) -> Backend:
    """The backend of this name, with options as in ``tensorrt{refit=true}``; raises UsageError with the nearest name.

    >>> find_backend("eager").name
    'eager'
    """
    match = _OPTIONS.fullmatch(name)
    if match is not None and match["options"] is not None:
        return _with_options(find_backend(match["name"].strip()), match["options"])
    names = backend_names()
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known backends: {', '.join(names)}"
        raise UsageError(f"unknown backend {name!r}", hint)
    found: Backend = importlib.import_module(f"tersor.backends.{name}").BACKEND
    return found


def _with_options(backend: Backend, options: str) -> Backend:
    from tersor.spec import option_values

    values = option_values(type(backend), options, "backend", backend.name, hidden=("name", "description"))
    try:
        made: Backend = replace(backend, **values)  # type: ignore[type-var]
    except (TypeError, ValueError) as error:
        raise UsageError(f"backend {backend.name!r} refuses its options: {error}") from None
    return made
