"""What was measured on this machine, kept in the user's cache directory."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tersor.errors import OutputError
from tersor.target import Target, processor

_MEASURED = ("capability", "rates", "bandwidth", "cache", "cache_bandwidth", "memory", "clock", "launch", "source")
_NUMBERS = ("bandwidth", "cache", "cache_bandwidth", "memory", "clock", "launch")


def cache_folder(environment: Mapping[str, str] = os.environ, system: str = sys.platform) -> Path:
    """Where this user's caches belong: ``XDG_CACHE_HOME`` where it is set, else the system's own place.

    >>> cache_folder({"XDG_CACHE_HOME": "/data/cache"}).as_posix()
    '/data/cache/tersor'
    """
    if wanted := environment.get("XDG_CACHE_HOME"):
        return Path(wanted) / "tersor"
    if system == "win32" and (local := environment.get("LOCALAPPDATA")):
        return Path(local) / "tersor" / "cache"
    return Path.home() / ("Library/Caches" if system == "darwin" else ".cache") / "tersor"


def path(target: Target) -> Path:
    """The file of the profile of this machine at this number of cores."""
    machine = re.sub(r"[^a-z0-9]+", "-", f"{platform.machine()} {processor()}".lower()).strip("-")
    return cache_folder() / "targets" / f"{machine}-{target.units}.json"


def operators_path(target: Target) -> Path:
    """The file of what single operators took, beside the profile."""
    return path(target).with_suffix(".operators.json")


def save(target: Target) -> Path:
    """Keep what was measured, whole or not at all; raises OutputError where it cannot be written."""
    return _write(path(target), {key: value for key, value in asdict(target).items() if key in _MEASURED})


def save_operators(target: Target, rows: Mapping[str, Any]) -> Path:
    """Keep measured operators by backend and the target's corrections; raises OutputError."""
    values = {"source": target.source, "corrections": target.corrections, "rows": rows}
    return _write(operators_path(target), values)


def _write(where: Path, values: Mapping[str, Any]) -> Path:
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=where.parent, suffix=".json")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(values, file, indent=1)
        Path(name).replace(where)
    except OSError as error:
        remedy = "set XDG_CACHE_HOME to a folder that can be written"
        raise OutputError(f"the profile {str(where)!r} cannot be written: {error.strerror}", remedy) from None
    return where


def measured(target: Target) -> Target:
    """The target with what was measured on this machine; unchanged where nothing was, or the file is damaged."""
    values = _read(path(target))
    if not _is_profile(values):
        return target
    return replace(target, **{"cache_bandwidth": 0.0, **values}, corrections=_corrections(operators_path(target)))


def _corrections(where: Path) -> dict[str, Any]:
    found = _read(where)
    made = found.get("corrections") if isinstance(found, dict) else None
    if not isinstance(made, dict):
        return {}
    return {backend: fitted for backend, fitted in made.items() if _is_correction(fitted)}


def _read(where: Path) -> Any:
    """The content of a JSON file, None where there is none; read again only after it has changed."""
    with contextlib.suppress(OSError, ValueError):
        return _parsed(where, where.stat().st_mtime_ns)
    return None


@functools.lru_cache(maxsize=8)
def _parsed(where: Path, changed: int) -> Any:
    return json.loads(where.read_text(encoding="utf-8"))


def _is_correction(fitted: Any) -> bool:
    wanted = {"call", "wake", "start", "function", "context", "interval", "kinds"}
    return isinstance(fitted, dict) and wanted <= set(fitted) and isinstance(fitted["kinds"], dict)


def _is_profile(values: Any) -> bool:
    if (
        not isinstance(values, dict)
        or set(_MEASURED) - set(values) - {"cache_bandwidth"}
        or set(values) - set(_MEASURED)
    ):
        return False
    rates = values["rates"]
    if not isinstance(rates, dict) or "float32" not in rates:
        return False
    numbers = [*(values.get(key, 0.0) for key in _NUMBERS), *rates.values()]
    return all(isinstance(number, int | float) and number >= 0 for number in numbers)
