"""Graphs are laid out in layers, without overlap, in time that grows linearly."""

import time
from itertools import pairwise

import pytest

from tersor.report.layout import HEIGHT, LONG, WIDTH, layout
from tests.report.samples import large


def overlaps(boxes):
    rows: dict[float, list[float]] = {}
    for x, y in boxes.values():
        rows.setdefault(y, []).append(x)
    return [(a, b) for row in rows.values() for a, b in pairwise(sorted(row)) if b - a < WIDTH]


def test_edges_point_downwards():
    edges = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("a", "d")]
    placed = layout("abcd", edges)
    assert {(source, target) for source, target, _ in placed.lines} == set(edges)
    for source, target in edges:
        assert placed.boxes[source][1] + HEIGHT < placed.boxes[target][1]
    assert not overlaps(placed.boxes)


def test_a_chain_is_straight():
    placed = layout("abcde", list(zip("abcd", "bcde", strict=True)))
    assert len({x for x, _ in placed.boxes.values()}) == 1


def test_lines_end_at_their_boxes():
    placed = layout("abc", [("a", "b"), ("b", "c"), ("a", "c")])
    for source, target, points in placed.lines:
        assert points[0] == (placed.boxes[source][0] + WIDTH / 2, placed.boxes[source][1] + HEIGHT)
        assert points[-1] == (placed.boxes[target][0] + WIDTH / 2, placed.boxes[target][1])


def test_a_line_keeps_clear_of_the_boxes_it_passes():
    placed = layout("abcd", [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")])
    points = next(points for source, target, points in placed.lines if (source, target) == ("a", "d"))
    for name in "bc":
        left, top = placed.boxes[name]
        inside = [x for x, y in points if top <= y <= top + HEIGHT]
        assert inside and all(not left < x < left + WIDTH for x in inside)


def test_very_long_edges_are_labels():
    names = [f"n{i}" for i in range(LONG + 5)]
    chain = list(pairwise(names))
    placed = layout(names, [*chain, (names[0], names[-1])])
    assert placed.stubs == [(names[0], names[-1])]
    assert len(placed.lines) == len(chain)


def test_a_constant_stands_near_its_use():
    names = ["x", "a", "b", "c", "table"]
    placed = layout(["x", "table", "a", "b", "c"], [("x", "a"), ("a", "b"), ("b", "c"), ("table", "c")])
    assert set(placed.boxes) == set(names)
    assert placed.boxes["table"][1] == placed.boxes["b"][1]


def test_nothing_to_draw():
    assert layout([], []).boxes == {}


@pytest.mark.parametrize("nodes", [2000])
def test_large_graphs_take_seconds(nodes):
    picture = large(nodes).picture_after
    start = time.process_time()
    placed = layout([node["name"] for node in picture.nodes], picture.edges)
    assert time.process_time() - start < 5
    assert not overlaps(placed.boxes)
