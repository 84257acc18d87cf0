"""What every form of the report says alike: numbers as text, ratios, grouped reasons, the worst parity."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tersor.report.model import ModelFacts, Parity, Report, SiteRecord, StepRecord, Timing


def count(value: int | float | None, unit: str = "") -> str:
    """A number with a decimal prefix.

    >>> count(11_751_936), count(950, "FLOP"), count(None)
    ('11.8 M', '950 FLOP', 'unknown')
    """
    if value is None:
        return "unknown"
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g}{' ' if unit else ''}{unit}" if isinstance(value, float) else f"{value} {unit}".strip()


def milliseconds(value: float | None) -> str:
    """A latency, three significant digits.

    >>> milliseconds(12.3456), milliseconds(None)
    ('12.3 ms', '')
    """
    return "" if value is None else f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def difference(value: float) -> str:
    """A numeric difference.

    >>> difference(0.0), difference(3.21e-7), difference(float("inf"))
    ('0', '3.2e-07', 'inf')
    """
    return "0" if value == 0 else f"{value:.2g}"


def nodes(model: ModelFacts) -> int:
    """Operators in a graph."""
    return sum(model.operators.values())


@dataclass(frozen=True)
class Group:
    """Candidates that were declined for one reason.

    Attributes:
        spec: the pass.
        reason: why.
        sites: where.
    """

    spec: str
    reason: str
    sites: tuple[SiteRecord, ...]


def skipped(report: Report) -> list[Group]:
    """Declined candidates by pass and reason, the most frequent first; a repeated pass counts each site once."""
    grouped: dict[tuple[str, str], dict[str, SiteRecord]] = {}
    for step in report.steps:
        for site in step.skipped:
            grouped.setdefault((step.spec, site.detail), {})[site.node] = site
    groups = [Group(spec, reason, tuple(sites.values())) for (spec, reason), sites in grouped.items()]
    return sorted(groups, key=lambda group: (-len(group.sites), group.spec, group.reason))


def done(sites: Iterable[SiteRecord]) -> list[tuple[str, int]]:
    """What was done at sites, with how often, the most frequent first."""
    return Counter(site.detail for site in sites).most_common()


def worst(parities: Sequence[Parity]) -> tuple[str, dict[str, float]] | None:
    """The output that came nearest to its tolerance, with its row; None where nothing was compared."""
    rows = [(name, row) for parity in parities for name, row in parity.outputs.items()]
    return max(rows, key=lambda item: _severity(item[1]), default=None)


def _severity(row: dict[str, float]) -> float:
    value = row.get("excess", row.get("absolute", 0.0))
    return math.inf if math.isnan(value) else value


def baseline(report: Report) -> Timing | None:
    """The contestant that others are compared with: the original on the backend in use, else any original."""
    originals = [timing for timing in report.timings if "original" in timing.name]
    same = [timing for timing in originals if report.backend and timing.name.startswith(report.backend)]
    return next(iter(same or originals), None)


def chosen(report: Report) -> Timing | None:
    """The contestant that is kept; where the report does not name it, the fastest of the backend in use."""
    if report.kept:
        return next((timing for timing in report.timings if timing.name == report.kept), None)
    named = [timing for timing in report.timings if report.backend and timing.name.startswith(report.backend)]
    rewritten = [timing for timing in named if "original" not in timing.name]
    return min(rewritten or named, key=lambda timing: timing.median_ms, default=None)


def verified(report: Report) -> bool:
    """Whether everything that the result consists of was compared and agrees; refused backends do not count."""
    relevant = [p for p in report.parity if not report.backend or p.what.startswith(("rewritten", report.backend))]
    return bool(relevant) and all(parity.passed for parity in relevant)


def verdict(report: Report) -> str:
    """One line: what came out of it."""
    kept = sum(step.status == "kept" for step in report.steps)
    dropped = sum(step.status == "dropped" for step in report.steps)
    parts = [
        f"{nodes(report.before)} operators became {nodes(report.after)}",
        f"{kept} {'pass' if kept == 1 else 'passes'} kept" + (f", {dropped} dropped" if dropped else ""),
        "outputs verified" if verified(report) else "",
        gain(report),
    ]
    return "; ".join(part for part in parts if part)


def gain(report: Report) -> str:
    """What became of the latency, in words; a difference within the quartiles is not called one."""
    first, last, speed = baseline(report), chosen(report), speedup(report)
    if first is None or last is None or speed is None:
        return ""
    if first is last:
        return "the original is kept"
    if last.high_ms < first.low_ms or first.high_ms < last.low_ms:
        return f"{speed:.2f} times as fast"
    return f"no measurable change in latency ({speed:.2f} times, within the spread)"


def speedup(report: Report) -> float | None:
    """How many times faster the kept contestant is than the original on the same backend."""
    first, last = baseline(report), chosen(report)
    if first is None or last is None or not last.median_ms:
        return None
    return first.median_ms / last.median_ms


def proven(step: StepRecord) -> str:
    """What the comparisons say that a lossy pass made itself; empty where it made none."""
    if step.exact or not step.parity:
        return ""
    worst_row = max((row for parity in step.parity for row in parity.outputs.values()), key=lambda row: row["relative"])
    times = f"{len(step.parity)} size bindings" if len(step.parity) > 1 else "the example inputs"
    return f"proven: {step.parity[0].what}, largest difference {worst_row['relative']:.1e} of the output, at {times}"
