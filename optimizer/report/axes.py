"""A picture of the groups of axes: one row per group, one column per layer, a mark where the layer has the group."""

from __future__ import annotations

import html
from collections.abc import Sequence

from tersor.report.model import GroupRecord

_COLOURS = {
    "channels": "#2f6fb0", "hidden": "#3a8f5c", "heads": "#a8562a", "head-dim": "#c98f2b", "width": "#7a4fa3",
    "experts": "#b03a5b", "tokens": "#4b8f8f",
}  # fmt: skip
_MOST = 400
_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2rem;color:#222;background:#fff}"
    ".scroll{overflow:auto;max-width:100%}text{font:11px system-ui,sans-serif}"
    ".legend span{display:inline-block;margin-right:1rem}.legend i{display:inline-block;width:.8em;height:.8em;"
    "margin-right:.3em}"
)


def page(model: str, groups: Sequence[GroupRecord]) -> str:
    """One self-contained page with the drawing of a model's groups."""
    title = html.escape(f"Axes of {model}")
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1>{section(groups)}</html>\n"
    )


def section(groups: Sequence[GroupRecord]) -> str:
    """What the drawing shows, its legend, and the drawing."""
    free = sum(not group.pin for group in groups)
    shown = [group for group in groups if group.producers or group.consumers][:_MOST]
    hidden = len(groups) - len(shown)
    note = f"<p>{hidden} groups that no layer makes or reads, or beyond {_MOST}, are not drawn.</p>" if hidden else ""
    return (
        f"<p>{free} of {len(groups)} groups may be cut. A row is a group of dimensions that are the same thing; a "
        "filled mark is a layer that makes it, a ring one that sums over it. Pale rows are pinned; point at a row for "
        f"the reason.</p>{_legend()}<div class='scroll'>{drawing(shown)}</div>{note}"
    )


def _legend() -> str:
    items = "".join(f"<span><i style='background:{colour}'></i>{kind}</span>" for kind, colour in _COLOURS.items())
    return f"<p class='legend'>{items}</p>"


def drawing(groups: Sequence[GroupRecord]) -> str:
    """The matrix of groups and layers as SVG."""
    layers = list(dict.fromkeys(node for group in groups for node in (*group.producers, *group.consumers)))
    place = {node: index for index, node in enumerate(layers)}
    left, top, step = 330, 120, 16
    body = [_column(node, left + index * step, top) for node, index in place.items()]
    body += [_row(group, place, left, top + index * step, step) for index, group in enumerate(groups)]
    width, height = left + len(layers) * step + 20, top + len(groups) * step + 20
    return (
        f"<svg role='img' aria-label='groups of axes by layer' width='{width}' height='{height}' "
        f"viewBox='0 0 {width} {height}'>{''.join(body)}</svg>"
    )


def _column(node: str, x: int, top: int) -> str:
    return f"<text x='{x}' y='{top - 12}' transform='rotate(-60 {x} {top - 12})'>{html.escape(node)}</text>"


def _row(group: GroupRecord, place: dict[str, int], left: int, y: int, step: int) -> str:
    colour = _COLOURS.get(group.kind, "#555")
    ends = [place[node] for node in (*group.producers, *group.consumers)]
    label = f"{group.name} ({group.kind} {group.size})"
    tip = f"pinned: {group.pin}" if group.pin else f"free; members {', '.join(group.members[:12])}"
    marks = [f"<circle cx='{left + place[n] * step}' cy='{y}' r='5' fill='{colour}'/>" for n in group.producers]
    marks += [
        f"<circle cx='{left + place[n] * step}' cy='{y}' r='4' fill='#fff' stroke='{colour}' stroke-width='2'/>"
        for n in group.consumers
    ]
    line = f"<line x1='{left + min(ends) * step}' x2='{left + max(ends) * step}' y1='{y}' y2='{y}' stroke='{colour}'/>"
    opacity = " opacity='0.35'" if group.pin else ""
    return (
        f"<g{opacity}><title>{html.escape(tip)}</title>"
        f"<text x='{left - 14}' y='{y + 4}' text-anchor='end'>{html.escape(label)}</text>{line}{''.join(marks)}</g>"
    )
