"""Measures this machine's CPU: instruction set, caches, arithmetic and memory rates, cost of a small operator."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from tersor.target import Target

_CPU = Path("/sys/devices/system/cpu/cpu0")
_INSTRUCTIONS = (
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "avx512f",
    "avx2",
    "asimd",
)


def measure(target: Target, seconds: float = 4.0) -> Target:
    """The CPU with its rates in operations per second and bytes per second, best of several repetitions.

    Args:
        target: from `tersor.target.detect`; its thread count is used.
        seconds: about how long it may take.
    """
    with _threads(target.threads):
        rates = {name: rate for name, rate in _rates(seconds / 5) if rate > 0}
        cache = last_level_cache()
        bandwidth = copied_bytes_per_second(int(max(4 * cache, 2**26)), seconds / 5)
        near = target.threads * max(copied_bytes_per_second(2**size, seconds / 40) for size in (15, 17, 19, 20))
        launch = seconds_per_small_operator(seconds / 10)
    return replace(
        target,
        capability=" ".join(instructions()),
        rates=rates,
        bandwidth=bandwidth,
        cache=cache,
        cache_bandwidth=max(near, bandwidth),
        memory=float(memory()),
        clock=clock(),
        launch=launch,
        source=f"measured {date.today().isoformat()}, {target.threads} threads",
    )


def instructions() -> list[str]:
    """The vector instruction sets that matter here, the widest first; empty where the system does not say."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
        flags = set(found.group(1).split()) if found else set()
        return [name for name in _INSTRUCTIONS if name in flags]
    return []


def last_level_cache() -> float:
    """Bytes of the largest cache that a core reaches; 1 MiB where the system does not say."""
    sizes = []
    for path in sorted((_CPU / "cache").glob("index*/size")):
        with contextlib.suppress(OSError, ValueError):
            text = path.read_text(encoding="ascii").strip()
            sizes.append(float(text.rstrip("KMG")) * {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1], 1))
    return max(sizes, default=float(2**20))


def memory() -> int:
    """Bytes of physical memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def clock() -> float:
    """Highest cycles per second; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        return 1e3 * float((_CPU / "cpufreq" / "cpuinfo_max_freq").read_text(encoding="ascii"))
    return 0.0


def copied_bytes_per_second(size: int, seconds: float) -> float:
    """Bytes read and written together while a tensor of ``size`` bytes is copied."""
    source = torch.ones(size // 4)
    target = torch.empty_like(source)
    return 2 * size / _best(lambda: target.copy_(source), seconds)


def seconds_per_small_operator(seconds: float) -> float:
    """Median time of an operator with next to no work."""
    one = torch.ones(1)
    return statistics.median(_times(lambda: one + one, seconds))


def _rates(seconds: float) -> Iterator[tuple[str, float]]:
    size = 1024
    operations = 2.0 * size**3
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64), ("bfloat16", torch.bfloat16)):
        value = torch.ones(size, size, dtype=dtype)
        yield name, operations / _best(lambda value=value: value @ value, seconds)  # type: ignore[misc]
    small = torch.ones(size, size, dtype=torch.int8)
    with contextlib.suppress(RuntimeError, AttributeError):
        yield "int8", operations / _best(lambda: torch._int_mm(small, small), seconds)


def _best(call: Callable[[], object], seconds: float) -> float:
    return min(_times(call, seconds))


def _times(call: Callable[[], object], seconds: float) -> list[float]:
    """Times of single calls for about so many seconds, at least three, after one that warms up."""
    call()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
