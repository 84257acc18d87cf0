"""Where to draw the nodes of a graph: layers from top to bottom (Sugiyama, Tagawa, Toda 1981)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

WIDTH, HEIGHT = 168.0, 40.0
"""Size of a node's box."""
GAP_X, GAP_Y = 22.0, 34.0
LANE = 14.0
"""Room that an edge takes where it passes a layer."""
LONG = 24
"""An edge over more layers is drawn as a labelled stub at its end, not as a line through the whole drawing."""
SWEEPS = 6

Point = tuple[float, float]


@dataclass
class Layout:
    """A drawing.

    Attributes:
        boxes: upper left corner of each node's box.
        lines: for each edge drawn as a line its points, from the source's lower to the target's upper side.
        stubs: edges drawn as a label above the target.
    """

    boxes: dict[str, Point] = field(default_factory=dict)
    lines: list[tuple[str, str, list[Point]]] = field(default_factory=list)
    stubs: list[tuple[str, str]] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0


def layout(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> Layout:
    """Place nodes, given in topological order; time and memory grow linearly with nodes and drawn edges."""
    if not names:
        return Layout()
    layers = _layers(names, edges)
    chains: list[tuple[str, str, list[str]]] = []
    stubs: list[tuple[str, str]] = []
    rows: list[list[str]] = [[] for _ in range(max(layers.values()) + 1)]
    for name in names:
        rows[layers[name]].append(name)
    for source, target in dict.fromkeys(edges):
        if layers[target] - layers[source] > LONG:
            stubs.append((source, target))
            continue
        chains.append((source, target, _chain(source, target, layers, rows)))
    links = [pair for _, _, chain in chains for pair in pairwise(chain)]
    above, below = _neighbours(links)
    _order(rows, above, below)
    centres = _centres(rows, above, below)
    return _drawing(names, layers, chains, stubs, centres)


def _layers(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Longest path from an input; what nothing leads to stands just above what it first feeds."""
    sources: dict[str, list[str]] = {name: [] for name in names}
    targets: dict[str, list[str]] = {name: [] for name in names}
    for source, target in edges:
        sources[target].append(source)
        targets[source].append(target)
    layers: dict[str, int] = {}
    for name in names:
        layers[name] = 1 + max((layers[source] for source in sources[name]), default=-1)
    for name in names:
        if not sources[name] and targets[name]:
            layers[name] = max(0, min(layers[target] for target in targets[name]) - 1)
    return layers


def _chain(source: str, target: str, layers: Mapping[str, int], rows: list[list[str]]) -> list[str]:
    """The edge through a lane in every layer between; the lanes enter the rows."""
    lanes = []
    for layer in range(layers[source] + 1, layers[target]):
        lane = f"\0{source}\0{target}\0{layer}"
        rows[layer].append(lane)
        lanes.append(lane)
    return [source, *lanes, target]


def _neighbours(links: Sequence[tuple[str, str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for source, target in links:
        above.setdefault(target, []).append(source)
        below.setdefault(source, []).append(target)
    return above, below


def _order(rows: list[list[str]], above: Mapping[str, list[str]], below: Mapping[str, list[str]]) -> None:
    """Barycentre heuristic against crossings, downwards and upwards in turn."""
    position = {name: float(index) for row in rows for index, name in enumerate(row)}
    for sweep in range(SWEEPS):
        sides, sequence = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        for row in sequence:
            keys = {name: _mean([position[other] for other in sides.get(name, ())], position[name]) for name in row}
            row.sort(key=keys.__getitem__)
            position.update((name, float(index)) for index, name in enumerate(row))


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _centres(rows: list[list[str]], above: Mapping[str, list[str]], below: Mapping[str, list[str]]) -> dict[str, float]:
    """Horizontal centres: each as near to the median of its neighbours as the order in its row allows."""
    centres: dict[str, float] = {}
    for row in rows:
        for index, name in enumerate(row):
            centres[name] = index * (WIDTH + GAP_X)
    for sweep in range(SWEEPS):
        sides, sequence = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        for row in sequence:
            wanted = [median([centres[other] for other in sides.get(name, (name,))]) for name in row]
            centres.update(zip(row, _spread(wanted, [_width(name) for name in row]), strict=True))
    return centres


def _width(name: str) -> float:
    return LANE if name.startswith("\0") else WIDTH + GAP_X


def _spread(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Centres in the given order without overlap, nearest to those wanted (pool adjacent violators)."""
    offsets, reach = [], 0.0
    for index, width in enumerate(widths):
        reach += (widths[index - 1] + width) / 2 if index else 0.0
        offsets.append(reach)
    pools: list[tuple[float, int]] = []
    for centre, offset in zip(wanted, offsets, strict=True):
        total, size = centre - offset, 1
        while pools and pools[-1][0] / pools[-1][1] > total / size:
            more, count = pools.pop()
            total, size = total + more, size + count
        pools.append((total, size))
    shifts = [total / size for total, size in pools for _ in range(size)]
    return [shift + offset for shift, offset in zip(shifts, offsets, strict=True)]


def _drawing(
    names: Sequence[str],
    layers: Mapping[str, int],
    chains: Sequence[tuple[str, str, list[str]]],
    stubs: list[tuple[str, str]],
    centres: Mapping[str, float],
) -> Layout:
    left = min(centres.values()) - WIDTH / 2 - GAP_X
    right = max(centres.values()) + WIDTH / 2 + GAP_X
    boxes = {name: (centres[name] - WIDTH / 2 - left, GAP_Y + layers[name] * (HEIGHT + GAP_Y)) for name in names}
    lines = []
    for source, target, chain in chains:
        points = [(boxes[source][0] + WIDTH / 2, boxes[source][1] + HEIGHT)]
        top = boxes[source][1]
        for lane in chain[1:-1]:
            top += HEIGHT + GAP_Y
            points += [(centres[lane] - left, top), (centres[lane] - left, top + HEIGHT)]
        points.append((boxes[target][0] + WIDTH / 2, boxes[target][1]))
        lines.append((source, target, points))
    height = GAP_Y + (max(layers.values()) + 1) * (HEIGHT + GAP_Y)
    return Layout(boxes, lines, stubs, right - left, height)
