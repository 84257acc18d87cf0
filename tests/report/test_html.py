"""The page is one file, complete, escaped, and written whole or not at all."""

import re

import pytest

from tersor.errors import OutputError
from tersor.report.drawing import draw, shorten
from tersor.report.html import render_html
from tersor.report.model import Report
from tests.report.samples import HOSTILE, hostile, sample


@pytest.fixture(scope="module")
def page():
    return render_html(sample())


def own_part(text):
    """The page without the embedded chart library, which holds any number of addresses."""
    return re.sub(r"<script[^>]*>/\*\*\s*\* plotly\.js.*?</script>", "", text, flags=re.DOTALL)


def test_no_resource_is_fetched(page):
    assert "default-src 'none'" in page
    assert len(own_part(page)) < 200_000 < len(page)
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", own_part(page))
    assert not re.search(r"@import|url\(", own_part(page))


def test_chart_library_is_embedded_once(page):
    assert page.count("plotly.js v") == 1
    assert all(f'id="chart-{name}"' in page for name in ("operators", "latency", "stages"))


def test_everything_is_said(page):
    text = own_part(page)
    for wanted in (
        "a copy without effect", "its result is an output", "differs by 1", "3.2 ms", "1.5 ms", "0123456789abcdef",
        "tersor optimize zoo:digits-cnn -o out.onnx", "2.13.0", "backend openvino was not used", "1e-05", "kept",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_changed_nodes_are_marked_by_colour_and_sign(page):
    assert re.search('class="node operator removed".*?\N{MINUS SIGN} clone', page, flags=re.DOTALL)
    assert re.search('class="node operator added".*?[+] relu', page, flags=re.DOTALL)
    assert re.search('class="node operator changed".*?\N{TILDE OPERATOR} conv2d', page, flags=re.DOTALL)


def test_hostile_names_are_escaped():
    page = render_html(hostile())
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page


def test_an_empty_report_renders():
    page = render_html(Report("x.onnx", "", "cpu"))
    assert "no pass was run" in page and "no graph was recorded" in page and "plotly.js v" not in page


def test_written_whole(tmp_path):
    path = sample().html(tmp_path / "report.html")
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        sample().html(tmp_path / "none" / "report.html")


def test_note_on_what_is_left_out():
    report = sample()
    report.picture_after.note = "5 of 10 nodes are left out of the drawing"
    assert report.picture_after.note in render_html(report)


def test_drawing_names_every_node_in_a_tooltip():
    svg = draw(sample().picture_after, "graph")
    assert svg.count("<title>") == 4 and 'aria-label="graph"' in svg


def test_long_names_keep_both_ends():
    assert shorten("scaled_dot_product_attention", 21) == "scaled_dot…_attention"
