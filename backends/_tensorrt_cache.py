"""The timing cache: how long each kernel took in earlier builds, so that it need not be timed again."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path

from tersor.backends._tensorrt_api import IBuilderConfig, IHostMemory, ITimingCache
from tersor.backends._tensorrt_options import Version
from tersor.targets.profile import cache_folder


def cache_path(option: str, version: Version, device: str) -> Path | None:
    """The file that an option names; "auto" is one per version and device, since timings hold for no other.

    >>> cache_path("none", (11, 4), "NVIDIA H100") is None
    True
    """
    if option in ("none", ""):
        return None
    if option != "auto":
        return Path(option)
    plain = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return cache_folder() / "tensorrt" / f"{version[0]}.{version[1]}-{plain}.cache"


def load_cache(config: IBuilderConfig, path: Path) -> None:
    """Hand what is kept to a build; a file that TensorRT does not take starts an empty cache."""
    kept = b""
    with contextlib.suppress(OSError):
        kept = path.read_bytes()
    cache: ITimingCache | None = config.create_timing_cache(kept)
    if cache is None or not config.set_timing_cache(cache, False):
        empty: ITimingCache = config.create_timing_cache(b"")
        config.set_timing_cache(empty, True)


def save_cache(config: IBuilderConfig, path: Path) -> None:
    """Keep what was timed, with what another build has added meanwhile; a full disk costs the cache alone."""
    cache: ITimingCache = config.get_timing_cache()
    with contextlib.suppress(OSError):
        if path.exists():
            other: ITimingCache | None = config.create_timing_cache(path.read_bytes())
            if other is not None:
                cache.combine(other, False)
        written: IHostMemory = cache.serialize()
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(bytes(written))
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
