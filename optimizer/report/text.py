"""The report for a terminal: plain text, the summary first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tersor.report.model import Parity, Report
from tersor.report.plan import front_rows, part_rows, reasons
from tersor.report.precision import decibels, headline, percent, ranked, records
from tersor.report.summary import (
    baseline,
    chosen,
    count,
    difference,
    done,
    milliseconds,
    nodes,
    proven,
    skipped,
    verdict,
    worst,
)

MOST_ROWS = 12
"""Longer lists of one kind end in how many more there are."""


def render_text(report: Report) -> str:
    """All of the report but the graphs and the single sites, which JSON and HTML hold."""
    sections = [
        _summary(report),
        _section("Plan", _plan(report)),
        _section("Passes", _steps(report)),
        _section("Declined", _declined(report)),
        _section("Precision", _precision(report)),
        _section("Operators", _operators(report)),
        _section("Verified", _parity(report)),
        _section("Latency", _timings(report)),
        _section("Layers", _layers(report)),
        _section("Time", _stages(report)),
        _section("Notes", [f"- {note}" for note in report.notes]),
        _section("Reproduce", _reproduce(report)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)]) if lines else ""


def table(rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Columns of equal width, two spaces apart; those in ``right`` are aligned to the right.

    >>> table([("a", "10"), ("bcd", "5")], right=(1,))
    ['a    10', 'bcd   5']
    """
    cells = [tuple(row) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))] if cells else []
    lines = []
    for row in cells:
        padded = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(padded).rstrip())
    return lines


def _summary(report: Report) -> str:
    before, after = report.before, report.after
    rows = [
        ("operators", str(nodes(before)), str(nodes(after))),
        ("parameters", count(before.parameters), count(after.parameters)),
        ("weights", count(before.parameter_bytes, "B"), count(after.parameter_bytes, "B")),
        ("work", count(before.flops, "FLOP"), count(after.flops, "FLOP")),
    ]
    first, last = baseline(report), chosen(report)
    if first is not None and last is not None:
        rows.append(("latency", milliseconds(first.median_ms), milliseconds(last.median_ms)))
    if report.quality is not None:
        rows.append((report.quality.name, f"{report.quality.before:.4g}", f"{report.quality.after:.4g}"))
    where = f"{report.target}, {report.backend}" if report.backend else report.target
    lines = table([("", "before", "after"), *rows], right=(1, 2))
    return "\n".join([f"{report.model} on {where}: {verdict(report)}", *(f"  {line}" for line in lines)])


def _plan(report: Report) -> list[str]:
    plan = report.plan
    if plan is None:
        return []
    head = ("not beaten in both time and quality", "time", "of the original's", "predicted", "quality", "loss")
    lines = [plan.verdict, *table([head, *front_rows(plan)], right=(1, 2, 3, 4, 5))]
    if plan.contributions:
        lines += table([("the plan without", "takes", "the pass costs"), *part_rows(plan)], right=(1, 2))
    lines += _shortened(reasons(plan))
    lines += [f"the trials are in {plan.study}"] if plan.study else []
    return [*lines, f"the same without a search: {plan.command}"]


def _steps(report: Report) -> list[str]:
    rows = [("pass", "", "sites", "declined", "operators", "seconds")]
    for step in report.steps:
        if step.status == "unchanged" and not step.skipped:
            continue
        change = f"{step.nodes_before} -> {step.nodes_after}" if step.nodes_before != step.nodes_after else ""
        sites = str(len(step.sites) or "")
        rows.append((step.spec, step.status, sites, str(len(step.skipped) or ""), change, f"{step.seconds:.2f}"))
    lines = table(rows, right=(2, 3, 4, 5)) if len(rows) > 1 else []
    lines += [f"{step.spec} dropped: {step.reason}" for step in report.steps if step.status == "dropped"]
    lines += [f"{step.spec} {proven(step)}" for step in report.steps if proven(step)]
    lines += [f"{step.spec}: {len(step.repaired)} layers repaired" for step in report.steps if step.repaired]
    idle = [step.spec for step in report.steps if step.status == "unchanged" and not step.skipped]
    if idle:
        lines.append(f"nothing to do: {', '.join(dict.fromkeys(idle))}")
    return [*lines, *_edits(report)]


def _edits(report: Report) -> list[str]:
    kept = [
        (f"{step.spec}: {what}", times)
        for step in report.steps
        if step.status == "kept"
        for what, times in done(step.sites)
    ]
    return _shortened([f"{times:>4} x {what}" for what, times in sorted(kept, key=lambda item: -item[1])])


def _shortened(lines: list[str]) -> list[str]:
    hidden = len(lines) - MOST_ROWS
    return lines if hidden <= 1 else [*lines[:MOST_ROWS], f"... and {hidden} more; the HTML and JSON reports list all"]


def _declined(report: Report) -> list[str]:
    return _shortened([f"{len(group.sites):>4} x {group.spec}: {group.reason}" for group in skipped(report)])


def _precision(report: Report) -> list[str]:
    lines = []
    for step, record in records(report):
        lines.append(f"{step.spec}: {headline(record)}")
        rows = [("layer", "format", "work", "own result", "alone", "up to here")]
        for layer in ranked(record)[:MOST_ROWS]:
            kind = record.weights if layer.kept else "float"
            own, up_to = decibels(layer.local), percent(layer.together)
            rows.append((layer.node, kind, f"{layer.work:.1%}", own, percent(layer.alone), up_to))
        lines += table(rows, right=(2, 3, 4, 5))
        hidden = len(record.layers) - MOST_ROWS
        lines += [f"... and {hidden} more; the HTML and JSON reports list all"] if hidden > 0 else []
    return lines


def _operators(report: Report) -> list[str]:
    before, after = report.before.operators, report.after.operators
    changed = [name for name in {**before, **after} if before.get(name, 0) != after.get(name, 0)]
    rows = [(name, str(before.get(name, 0)), "->", str(after.get(name, 0))) for name in changed]
    return _shortened(table(sorted(rows, key=lambda row: -abs(int(row[1]) - int(row[3]))), right=(1, 3)))


def _parity(report: Report) -> list[str]:
    lines = []
    for what in dict.fromkeys(parity.what for parity in report.parity):
        checks = [parity for parity in report.parity if parity.what == what]
        passed = sum(parity.passed for parity in checks)
        lines.append(f"{what}: {passed} of {len(checks)} size bindings within tolerance{_worst(checks)}")
    return lines


def _worst(checks: Sequence[Parity]) -> str:
    found = worst(checks)
    if found is None:
        return ""
    name, row = found
    allowed = f", allowed {difference(row['allowed'])}" if "allowed" in row else ""
    return f"; largest difference {difference(row.get('absolute', 0.0))} on {name!r}{allowed}"


def _timings(report: Report) -> list[str]:
    if not report.timings:
        return []
    first = baseline(report)
    predicted = any(timing.predicted_ms is not None for timing in report.timings)
    rows = [("", "median", "quartiles", "runs", "ratio", "predicted" if predicted else "")]
    for timing in sorted(report.timings, key=lambda timing: timing.median_ms):
        ratio = f"{first.median_ms / timing.median_ms:.2f}x" if first is not None and timing.median_ms else ""
        spread = f"{timing.low_ms:.3g} - {timing.high_ms:.3g}"
        median = milliseconds(timing.median_ms)
        rows.append((timing.name, median, spread, str(timing.runs), ratio, milliseconds(timing.predicted_ms)))
    return table(rows, right=(1, 2, 3, 4, 5))


def _layers(report: Report) -> list[str]:
    """The slowest ones, with their share of the time that all take one by one."""
    total = sum(layer.ms for layer in report.layers)
    ranked = sorted(report.layers, key=lambda layer: -layer.ms)
    rows = [(layer.name, layer.kind, milliseconds(layer.ms), f"{layer.ms / total:.1%}") for layer in ranked if total]
    lines = table([("layer", "kind", "time", "share"), *rows[:MOST_ROWS]], right=(2, 3)) if rows else []
    hidden = len(rows) - MOST_ROWS
    return [*lines, f"... and {hidden} more; the HTML and JSON reports list all"] if hidden > 0 else lines


def _stages(report: Report) -> list[str]:
    total = sum(report.stages.values())
    rows = [(name, f"{seconds:.2f} s") for name, seconds in report.stages.items()]
    return table([*rows, ("total", f"{total:.2f} s")], right=(1,)) if rows else []


def _reproduce(report: Report) -> list[str]:
    pairs = [("model", report.model_hash), ("data", report.data_hash), *report.environment.items()]
    versions = ", ".join(f"{name} {value}" for name, value in pairs if value)
    return [line for line in (report.command, versions) if line]
