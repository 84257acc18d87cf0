"""The report as one self-contained page: no request leaves it, so it can be mailed, archived and printed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tersor.errors import OutputError
from tersor.report import axes, plan, precision, summary
from tersor.report.charts import charts
from tersor.report.drawing import draw
from tersor.report.model import Report

Card = dict[str, str]


def write_html(report: Report, path: str | Path) -> Path:
    """Write the page, whole or not at all; raises OutputError where that is not possible."""
    return write_text(render_html(report), Path(path))


def write_text(text: str, path: Path) -> Path:
    """Write a text file, whole or not at all; raises OutputError where that is not possible."""
    try:
        descriptor, made = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror}", "choose another folder") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(made).chmod(0o644)
        Path(made).replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror}", "choose another path") from None
    finally:
        Path(made).unlink(missing_ok=True)
    return path


def render_html(report: Report) -> str:
    """The page as text; every string of the report is escaped."""
    environment = Environment(
        loader=PackageLoader("tersor.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": summary.count,
        "milliseconds": summary.milliseconds,
        "difference": summary.difference,
        "decibels": precision.decibels,
        "percent": precision.percent,
        "share": plan.share,
        "loss": plan.loss,
    }
    return environment.get_template("report.html.j2").render(**_content(report))


def _content(report: Report) -> dict[str, Any]:
    first = summary.baseline(report)
    return {
        "report": report,
        "verdict": summary.verdict(report),
        "cards": cards(report),
        "done": summary.done,
        "declined": summary.skipped(report),
        "operators": _operator_rows(report),
        "baseline_ms": first.median_ms if first is not None else None,
        "charts": charts(report),
        "axes": Markup(axes.section(report.groups)) if report.groups else "",
        "proven": summary.proven,
        "plan_parts": plan.part_rows(report.plan) if report.plan is not None else [],
        "plan_name": plan.name,
        "plan_time": plan.time_of,
        "precision": [(step.spec, record, precision.headline(record)) for step, record in precision.records(report)],
        "graphs": [
            ("before", draw(report.picture_before, "graph before"), _marks(report.picture_before.nodes)),
            ("after", draw(report.picture_after, "graph after"), _marks(report.picture_after.nodes)),
        ],
    }


def cards(report: Report) -> list[Card]:
    """The figures that matter, each with what it was before and what it is after."""
    before, after = report.before, report.after
    made = [
        _card("Operators", str(summary.nodes(before)), str(summary.nodes(after))),
        _card("Parameters", summary.count(before.parameters), summary.count(after.parameters)),
        _card("Weights", summary.count(before.parameter_bytes, "B"), summary.count(after.parameter_bytes, "B")),
        _card("Work", summary.count(before.flops, "FLOP"), summary.count(after.flops, "FLOP")),
    ]
    first, last = summary.baseline(report), summary.chosen(report)
    if first is not None and last is not None:
        was, now = summary.milliseconds(first.median_ms), summary.milliseconds(last.median_ms)
        made.append(_card("Latency", was, now, summary.gain(report)))
    if report.quality is not None:
        quality = report.quality
        was, now = f"{quality.before:.4g}", f"{quality.after:.4g}"
        made.append(_card(quality.name.capitalize(), was, now, f"{quality.budget:.2%} may be lost"))
    if report.parity:
        state = "agrees" if summary.verified(report) else "not verified"
        found = summary.worst(report.parity)
        note = "" if found is None else f"largest difference {summary.difference(found[1].get('absolute', 0.0))}"
        made.append(_card("Outputs", "", state, note=note))
    return made


def _card(title: str, before: str, after: str, note: str = "") -> Card:
    return {"title": title, "before": "" if before == after else before, "after": after, "note": note}


def _operator_rows(report: Report) -> list[tuple[str, int, int]]:
    before, after = report.before.operators, report.after.operators
    return [(name, before.get(name, 0), after.get(name, 0)) for name in sorted({**before, **after})]


def _marks(nodes: list[dict[str, str]]) -> int:
    return sum(bool(node.get("mark")) for node in nodes)
