"""What the planner looked at: lines for the terminal, rows for the page, and quality against time as a picture."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from tersor.report.model import PlanRecord, Report, TrialRecord
from tersor.report.summary import milliseconds

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

EXACT = "exact passes alone"

COLOURS = {"chosen": "#d8452f", "front": "#2f7ed8"}
OTHERS = "#8a94a6"


def share(value: float | None) -> str:
    """A share of one.

    >>> share(0.4567), share(None)
    ('45.7%', '')
    """
    return "" if value is None else f"{value:.1%}"


def loss(value: float | None) -> str:
    """What is lost, to a hundredth of a percent; nothing is not negative.

    >>> loss(0.0012), loss(-1e-9), loss(None)
    ('0.12%', '0.00%', '')
    """
    return "" if value is None else f"{value + 0.0:.2%}".replace("-0.00%", "0.00%")


def name(trial: TrialRecord) -> str:
    """The pipeline as the reader is told."""
    return trial.passes or EXACT


def time_of(plan: PlanRecord, ratio: float | None) -> str:
    """A relative time in milliseconds where the original's is known, else as a share."""
    if ratio is None:
        return ""
    return share(ratio) if plan.original_ms is None else milliseconds(ratio * plan.original_ms)


def front_rows(plan: PlanRecord) -> list[tuple[str, ...]]:
    """The Pareto front: pipeline, time, share of the original's, predicted share, quality, loss."""
    return [
        (
            f"{name(trial)}{' (chosen)' if trial.status == 'chosen' else ''}", time_of(plan, trial.measured),
            share(trial.measured), share(trial.predicted),
            "" if trial.quality is None else f"{trial.quality:.4g}", loss(trial.lost),
        )
        for trial in plan.front
    ]  # fmt: skip


def part_rows(plan: PlanRecord) -> list[tuple[str, ...]]:
    """What each chosen pass does: how much longer the plan takes without it, and what it costs."""
    return [
        (part.spec, "" if part.time is None else f"{part.time:.2f} times as long", loss(part.lost))
        for part in plan.contributions
    ]


def reasons(plan: PlanRecord) -> list[str]:
    """Every pipeline that was not taken, with the reason."""
    return [f"{name(trial)}: {trial.reason}" for trial in plan.trials if trial.reason and trial.status != "front"]


def figure(report: Report) -> Figure | None:
    """Quality against time: the front as a line, the chosen pipeline, and everything else that was measured."""
    from plotly.graph_objects import Figure, Scatter

    plan = report.plan
    measured = [t for t in plan.trials if t.measured is not None and t.quality is not None] if plan else []
    if plan is None or not measured:
        return None
    scale = plan.original_ms or 100.0
    front = plan.front
    made = [Scatter(
        x=[scale * (trial.measured or 0.0) for trial in front], y=[trial.quality for trial in front], mode="lines",
        line={"shape": "hv", "color": COLOURS["front"], "width": 1}, hoverinfo="skip", showlegend=False,
    )]  # fmt: skip
    for label, status in (("chosen", "chosen"), ("not beaten", "front"), ("beaten", "")):
        group = [t for t in measured if (t.status if t.status in COLOURS else "") == status]
        colour, size = COLOURS.get(status, OTHERS), 12 if status == "chosen" else 8
        made.append(Scatter(
            x=[scale * (trial.measured or 0.0) for trial in group], y=[trial.quality for trial in group], name=label,
            mode="markers", marker={"color": colour, "size": size}, text=[html.escape(name(trial)) for trial in group],
            hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
        ))  # fmt: skip
    drawn = Figure(made)
    drawn.update_layout(
        template="none", height=380, margin={"l": 70, "r": 20, "t": 10, "b": 50}, paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    unit = "milliseconds" if plan.original_ms is not None else "% of the original's time"
    drawn.update_xaxes(title=unit, gridcolor="rgba(128,128,128,0.25)", rangemode="tozero")
    quality = report.quality.name if report.quality is not None else "quality"
    drawn.update_yaxes(title=quality, gridcolor="rgba(128,128,128,0.25)", automargin=True)
    if plan.wanted is not None:
        drawn.add_vline(x=scale * plan.wanted, line={"dash": "dot", "width": 1}, annotation_text="wanted")
    return drawn
