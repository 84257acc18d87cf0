"""What was measured on this machine, kept in the user's cache directory."""

from __future__ import annotations

import contextlib
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

_MEASURED = ("capability", "rates", "bandwidth", "cache", "memory", "clock", "launch", "source")


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


def save(target: Target) -> Path:
    """Keep what was measured, whole or not at all; raises OutputError where it cannot be written."""
    where = path(target)
    values = {key: value for key, value in asdict(target).items() if key in _MEASURED}
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
    with contextlib.suppress(OSError, ValueError, TypeError):
        values = json.loads(path(target).read_text(encoding="utf-8"))
        if _is_profile(values):
            return replace(target, **values)
    return target


def _is_profile(values: Any) -> bool:
    if not isinstance(values, dict) or set(values) != set(_MEASURED):
        return False
    rates = values["rates"]
    if not isinstance(rates, dict) or "float32" not in rates:
        return False
    numbers = [values[key] for key in ("bandwidth", "cache", "memory", "clock", "launch")] + list(rates.values())
    return all(isinstance(number, int | float) and number >= 0 for number in numbers)
