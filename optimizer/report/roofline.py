"""The roofline chart: every launch of a program under what its device can do (Williams et al., CACM 2009)."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tersor.report.model import RooflineLayer, RooflineRecord

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_MARKS = {"before": ("circle-open", "#8a94a6"), "after": ("circle", "#2f7ed8")}
_ROOF = "rgba(128,128,128,0.9)"
_SMALLEST, _LARGEST = 6.0, 34.0
"""Pixels of marks: of a launch that takes no time, and of one that takes all of it."""


def figure(records: Sequence[RooflineRecord]) -> Figure | None:
    """Operations per second over operations per byte, both logarithmic; None where there is nothing to draw."""
    from plotly.graph_objects import Figure

    drawn = [(record, [layer for layer in record.layers if shown(layer)]) for record in records]
    points = [intensity(layer) for _, layers in drawn for layer in layers]
    if not points:
        return None
    total = max(sum(layer.seconds for layer in layers) for _, layers in drawn)
    left, right = min(points) / 2, max(*points, _ridge(records[0])) * 2
    made = Figure([*_roofs(records, left, right), *(_marks(record.title, layers, total) for record, layers in drawn)])
    made.update_layout(
        template="none", height=520, margin={"l": 10, "r": 20, "t": 10, "b": 50}, paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    grid = {"type": "log", "gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
    made.update_xaxes(title="operations for each byte", **grid)
    made.update_yaxes(title="operations per second", automargin=True, exponentformat="SI", **grid)
    return made


def shown(layer: RooflineLayer) -> bool:
    """Whether a logarithmic chart has a place for it."""
    return layer.operations > 0 and layer.bytes > 0 and layer.seconds > 0


def intensity(layer: RooflineLayer) -> float:
    """Operations for each byte."""
    return layer.operations / layer.bytes


def _ridge(record: RooflineRecord) -> float:
    """Where the highest roof begins to be flat."""
    return max(record.rates.values()) / record.bandwidth


def _roofs(records: Sequence[RooflineRecord], left: float, right: float) -> list[Any]:
    """One roof per number format that any of the programs computes in, and that of the caches beside the first."""
    from plotly.graph_objects import Scatter

    rates = {dtype: rate for record in records for dtype, rate in record.rates.items()}
    slopes = {"memory": records[0].bandwidth}
    if records[0].near > records[0].bandwidth:
        slopes["cache"] = records[0].near
    lines = []
    for dtype, rate in sorted(rates.items(), key=lambda item: item[1]):
        for name, bandwidth in slopes.items():
            corner = min(max(rate / bandwidth, left), right)
            places = [left, corner, right]
            lines.append(
                Scatter(
                    x=places, y=[min(rate, bandwidth * place) for place in places], mode="lines",
                    name=html.escape(f"{dtype}, {name}"), hoverinfo="name",
                    line={"color": _ROOF, "width": 1.5, "dash": "solid" if name == "memory" else "dot"},
                )
            )  # fmt: skip
    return lines


def _marks(title: str, layers: Sequence[RooflineLayer], total: float) -> Any:
    from plotly.graph_objects import Scatter

    symbol, colour = _MARKS.get(title, _MARKS["after"])
    sizes = [_SMALLEST + (_LARGEST - _SMALLEST) * math.sqrt(layer.seconds / total) for layer in layers]
    return Scatter(
        x=[intensity(layer) for layer in layers],
        y=[layer.operations / layer.seconds for layer in layers],
        mode="markers",
        name=title,
        text=[_told(layer, total) for layer in layers],
        hovertemplate="%{text}<extra></extra>",
        marker={"symbol": symbol, "color": colour, "size": sizes, "opacity": 0.75, "line": {"width": 1.2}},
    )


def _told(layer: RooflineLayer, total: float) -> str:
    lines = [f"<b>{html.escape(layer.name)}</b>, {html.escape(layer.kind)}, {html.escape(layer.dtype)}"]
    if layer.origin:
        lines.append(html.escape(layer.origin))
    lines.append(f"{layer.seconds * 1e6:.1f} us, {layer.seconds / total:.1%}; at least {layer.bound * 1e6:.1f} us")
    return "<br>".join(lines)
