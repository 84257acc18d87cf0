"""A graph as SVG markup: boxes by operator, marks for what changed, edges as curves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from tersor.report.layout import HEIGHT, WIDTH, Layout, Point, layout
from tersor.report.model import GraphPicture

MARKS = {"added": "+", "removed": "\N{MINUS SIGN}", "changed": "\N{TILDE OPERATOR}"}
"""Signs beside the colours, for those who do not see colours."""
LONGEST = 22
"""Characters that fit into a box."""


def draw(picture: GraphPicture, title: str) -> Markup:
    """One ``<svg>`` element; empty markup where there is nothing to draw."""
    if not picture.nodes:
        return Markup()
    known = {node["name"] for node in picture.nodes}
    edges = [(source, target) for source, target in picture.edges if {source, target} <= known]
    placed = layout([node["name"] for node in picture.nodes], edges)
    view = f"0 0 {placed.width:.0f} {placed.height:.0f}"
    head = Markup('<svg class="graph" viewBox="{0}" data-full="{0}" role="img" aria-label="{1}" tabindex="0">').format(
        view, title
    )
    parts = [head, _edges(placed), *_stubs(placed), *(_box(node, placed) for node in picture.nodes), Markup("</svg>")]
    return Markup("\n").join(parts)


def _edges(placed: Layout) -> Markup:
    """All edges in one path: two thousand elements fewer to keep track of."""
    return Markup('<path class="edges" d="{}"/>').format(" ".join(_curve(points) for _, _, points in placed.lines))


def _curve(points: Sequence[Point]) -> str:
    commands = [f"M{points[0][0]:.0f} {points[0][1]:.0f}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        if abs(x0 - x1) < 1:
            commands.append(f"V{y1:.0f}")
        else:
            middle = (y0 + y1) / 2
            commands.append(f"C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {y1:.0f}")
    return "".join(commands)


def _stubs(placed: Layout) -> list[Markup]:
    """Labels that name a source far above, one per target."""
    sources: dict[str, list[str]] = {}
    for source, target in placed.stubs:
        sources.setdefault(target, []).append(source)
    labels = []
    for target, names in sources.items():
        x, y = placed.boxes[target]
        label = f"\N{DOWNWARDS ARROW WITH TIP RIGHTWARDS} {shorten(', '.join(names), 30)}"
        mark = Markup('<text class="stub" x="{}" y="{}"><title>{}</title>{}</text>')
        labels.append(mark.format(round(x + 4), round(y - 5), f"from {', '.join(names)}", label))
    return labels


def _box(node: dict[str, str], placed: Layout) -> Markup:
    x, y = placed.boxes[node["name"]]
    mark = node.get("mark", "")
    sign = f"{MARKS[mark]} " if mark in MARKS else ""
    kind = node["operator"] if node["operator"] in ("input", "output") else "operator"
    return Markup(
        '<g class="node {} {}" data-name="{}" transform="translate({} {})"><title>{}</title>'
        '<rect width="{}" height="{}" rx="6"/><text x="10" y="17">{}</text>'
        '<text class="shape" x="10" y="32">{}</text></g>'
    ).format(
        kind, mark, node["name"], round(x), round(y), _tooltip(node), round(WIDTH), round(HEIGHT),
        shorten(sign + _label(node), LONGEST), shorten(node["shape"], LONGEST + 3),
    )  # fmt: skip


def _label(node: dict[str, str]) -> str:
    return node["origin"] or node["name"] if node["operator"] == "input" else node["operator"]


def _tooltip(node: dict[str, str]) -> str:
    lines = [f"{node['operator']} {node['name']}", node["shape"], node.get("origin", ""), node.get("weights", "")]
    marked = {"added": "added by a pass", "removed": "removed by a pass", "changed": "changed by a pass"}
    return "\n".join(filter(None, [*lines, marked.get(node.get("mark", ""), "")]))


def shorten(text: str, longest: int) -> str:
    """The text, cut in the middle where it is longer.

    >>> shorten("scaled_dot_product_attention", 21)
    'scaled_dot…_attention'
    """
    if len(text) <= longest:
        return text
    left = longest // 2
    right = longest - 1 - left
    return f"{text[:left]}\N{HORIZONTAL ELLIPSIS}{text[-right:]}"
