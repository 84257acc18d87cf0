"""Charts of the HTML report, drawn by Plotly in the browser; its library is embedded, nothing is fetched."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from markupsafe import Markup

from tersor.report import plan, roofline
from tersor.report.model import PrecisionRecord, Report
from tersor.report.precision import ranked, records

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_BARS = 24
BEFORE, AFTER, PREDICTED = "#8a94a6", "#2f7ed8", "#e0a03a"


def charts(report: Report) -> dict[str, Markup]:
    """HTML fragments by name: "operators", "latency", "stages", "precision-0" and on; what has no data is left out."""
    import plotly.io

    figures = {"operators": _operators(report), "latency": _latency(report), "stages": _stages(report)}
    figures["plan"] = plan.figure(report)
    figures["roofline"] = roofline.figure(report.rooflines)
    figures |= {f"precision-{place}": _precision(record) for place, (_, record) in enumerate(records(report))}
    fragments: dict[str, Markup] = {}
    for name, figure in figures.items():
        if figure is None:
            continue
        text = plotly.io.to_html(
            figure,
            full_html=False,
            include_plotlyjs=not fragments,
            div_id=f"chart-{name}",
            config={"displayModeBar": False, "responsive": True},
        )
        fragments[name] = Markup(text)
    return fragments


def _operators(report: Report) -> Figure | None:
    before, after = report.before.operators, report.after.operators
    names = sorted({**before, **after}, key=lambda name: max(before.get(name, 0), after.get(name, 0)))[-MOST_BARS:]
    if not names:
        return None
    bars = [("before", BEFORE, before), ("after", AFTER, after)]
    series = [(label, colour, [float(counts.get(name, 0)) for name in names]) for label, colour, counts in bars]
    return _bars(names, series, "operators in the graph")


def _latency(report: Report) -> Figure | None:
    timings = sorted(report.timings, key=lambda timing: -timing.median_ms)
    if not timings:
        return None
    names = [timing.name for timing in timings]
    series = [("measured", AFTER, [timing.median_ms for timing in timings])]
    if any(timing.predicted_ms is not None for timing in timings):
        series.insert(0, ("predicted", PREDICTED, [timing.predicted_ms or 0.0 for timing in timings]))
    figure = _bars(names, series, "milliseconds, median with quartiles")
    figure.update_traces(
        selector={"name": "measured"},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [timing.high_ms - timing.median_ms for timing in timings],
            "arrayminus": [timing.median_ms - timing.low_ms for timing in timings],
            "thickness": 1,
        },
    )
    return figure


def _stages(report: Report) -> Figure | None:
    if not report.stages:
        return None
    names = list(reversed(report.stages))
    return _bars(names, [("seconds", AFTER, [report.stages[name] for name in names])], "seconds")


def _precision(record: PrecisionRecord) -> Figure | None:
    shown = [layer for layer in ranked(record) if layer.alone is not None][:MOST_BARS]
    if not shown:
        return None
    names = [layer.node for layer in reversed(shown)]
    alone = [100 * (layer.alone or 0.0) for layer in reversed(shown)]
    together = [100 * (layer.together or 0.0) for layer in reversed(shown)]
    return _bars(names, [("alone", AFTER, alone), ("with all before it", BEFORE, together)], "% of the outputs' energy")


def _bars(names: list[str], series: list[tuple[str, str, list[float]]], unit: str) -> Figure:
    from plotly.graph_objects import Bar, Figure

    labels = [html.escape(name) for name in names]
    bars = [
        Bar(y=labels, x=values, name=label, orientation="h", marker={"color": colour}, hovertemplate="%{x:.4g}")
        for label, colour, values in reversed(series)
    ]
    figure = Figure(bars)
    figure.update_layout(
        template="none",
        height=110 + 24 * len(names) * max(1, len(series) * 2 // 3),
        margin={"l": 10, "r": 20, "t": 10, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "traceorder": "reversed"},
        showlegend=len(series) > 1,
        bargap=0.3,
        barmode="group",
    )
    figure.update_xaxes(title=unit, gridcolor="rgba(128,128,128,0.25)", zeroline=False, rangemode="tozero")
    figure.update_yaxes(automargin=True, type="category")
    return figure
