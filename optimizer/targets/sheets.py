"""Reads data sheets: those of the package and those of users, with their units checked."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from tersor.errors import UsageError
from tersor.target import Target

FAMILIES = ("datacenter", "workstation", "geforce", "jetson")

_RANGES: dict[str, tuple[float, float]] = {
    "sms": (1, 1024),
    "boost_mhz": (100, 10_000),
    "power_w": (3, 3000),
    "memory_gb": (0.5, 4096),
    "bandwidth_gb_s": (5, 50_000),
    "l2_mb": (0.1, 4096),
    "launch_us": (0.1, 1000),
}
"""What each number can plausibly be in its unit; anything else is a figure in another unit."""
_RATE_RANGE = (0.005, 100_000)
_TEXTS = ("name", "product", "capability", "memory_type", "source")
_RATES = ("tflops", "sparse_tflops")
_DTYPES = (
    "float64", "float32", "tf32", "float16", "float16+float16", "bfloat16", "float8", "float4", "int8", "int4",
)  # fmt: skip


@functools.cache
def sheets() -> Mapping[str, Target]:
    """The devices of the package by name."""
    entries = [entry for family in FAMILIES for entry in _family(family)]
    return {entry["name"]: from_sheet(entry) for entry in entries}


def from_file(path: Path) -> Target:
    """A device that a user describes in a JSON file with the keys of the package's own sheets.

    Raises:
        UsageError: there is no such file, it is not a data sheet, or a number cannot be in the unit of its key.
    """
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"target file {str(path)!r} cannot be read: {error.strerror}", "check the path") from None
    except ValueError as error:
        raise UsageError(f"target file {str(path)!r} is not JSON: {error}", _wanted()) from None
    if not isinstance(entry, dict):
        raise UsageError(f"target file {str(path)!r} holds a {type(entry).__name__}", _wanted())
    return from_sheet(entry)


def from_sheet(entry: Mapping[str, Any]) -> Target:
    """The target that a data sheet describes; raises UsageError where a key is missing, unknown or out of range.

    >>> sheets()["h100"].rate("float16") / 1e12
    989.4
    """
    _check(entry)
    rates = {dtype: 1e12 * value for dtype, value in entry["tflops"].items()}
    bandwidth = 1e9 * entry["bandwidth_gb_s"]
    return Target(
        name=entry["name"],
        device="cuda",
        balance=max(rates.get("float16", 0.0), rates["float32"]) / bandwidth,
        multiple=8,
        product=entry.get("product", entry["name"]),
        capability=entry.get("capability", ""),
        rates=rates,
        sparse={dtype: 1e12 * value for dtype, value in entry.get("sparse_tflops", {}).items()},
        bandwidth=bandwidth,
        cache=1e6 * entry["l2_mb"],
        memory=1e9 * entry["memory_gb"],
        memory_type=entry.get("memory_type", ""),
        power=float(entry["power_w"]),
        units=int(entry["sms"]),
        clock=1e6 * entry["boost_mhz"],
        launch=1e-6 * entry["launch_us"],
        source=entry.get("source", "the user's file"),
    )


def _check(entry: Mapping[str, Any]) -> None:
    unknown = [key for key in entry if key not in (*_TEXTS, *_RATES, *_RANGES)]
    missing = [key for key in ("name", "tflops", *_RANGES) if key not in entry]
    if unknown or missing:
        raise UsageError(
            f"target sheet has no {missing}" if missing else f"target sheet has unknown {unknown}", _wanted()
        )
    for key, (low, high) in _RANGES.items():
        _plausible(key, entry[key], low, high)
    for table in _RATES:
        _check_rates(table, entry.get(table, {}))
    if "float32" not in entry["tflops"]:
        raise UsageError("target sheet has no float32 in 'tflops'", "give at least that rate, in 10^12 operations/s")


def _check_rates(table: str, rates: Any) -> None:
    if not isinstance(rates, dict):
        raise UsageError(f"target sheet: {table!r} is {rates!r}", 'give rates by dtype, such as {"float32": 19.5}')
    for dtype, value in rates.items():
        if dtype not in _DTYPES:
            raise UsageError(f"target sheet: {table!r} names {dtype!r}", f"known are {', '.join(_DTYPES)}")
        _plausible(f"{table}.{dtype}", value, *_RATE_RANGE)


def _plausible(key: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UsageError(
            f"target sheet: {key!r} is {value!r}, wanted {low:g} to {high:g}",
            "the end of the key is the unit, and 'tflops' are 10^12 operations per second",
        )


def _wanted() -> str:
    return f"a sheet holds {', '.join((*_TEXTS, *_RATES, *_RANGES))}"


def _family(name: str) -> list[dict[str, Any]]:
    text = files("tersor.targets").joinpath(f"{name}.json").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(text)
    return found
