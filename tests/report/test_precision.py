"""The table and the plot of where an error comes from, in every form of the report."""

from __future__ import annotations

import json

import pytest

from tersor.report.html import render_html
from tersor.report.model import LayerError, PrecisionRecord, Report, StepRecord
from tersor.report.precision import headline, ranked
from tests.report.samples import HOSTILE, sample


@pytest.fixture
def report() -> Report:
    layers = [
        LayerError("stem", "features.0", 0.5, True, "", 0.001, 0.002, 0.002),
        LayerError("head", HOSTILE, 0.3, False, "to save precision", alone=0.2),
        LayerError("body", "features.1", 0.2, True, "", 0.0, 0.03, 0.035),
    ]
    made = sample()
    record = PrecisionRecord("int7", "uint8", "this CPU has no VNNI", 0.3, layers)
    made.steps.append(StepRecord("quantize", "kept", False, precision=record))
    return made


def test_those_that_cost_most_come_first(report: Report) -> None:
    record = report.steps[-1].precision
    assert record is not None
    assert [layer.node for layer in ranked(record)] == ["head", "body", "stem"]
    assert headline(record) == (
        "2 of 3 layers with 70.0% of the multiply-adds on integers: int7 weights (this CPU has no VNNI), uint8 "
        "activations; 30.0% given back to save precision"
    )


def test_the_terminal_shows_the_table(report: Report) -> None:
    lines = report.text().splitlines()
    start = lines.index("Precision")
    rows = [line.split() for line in lines[start + 2 : start + 6]]
    assert rows[1] == ["head", "float", "30.0%", "20%"]
    assert rows[2] == ["body", "int7", "20.0%", "exact", "3%", "3.5%"]
    assert rows[3] == ["stem", "int7", "50.0%", "30.0", "dB", "0.2%", "0.2%"]


def test_json_holds_every_layer(report: Report) -> None:
    record = json.loads(report.json())["steps"][-1]["precision"]
    assert (record["weights"], record["returned"]) == ("int7", 0.3)
    assert [layer["alone"] for layer in record["layers"]] == [0.002, 0.2, 0.03]


def test_the_page_has_plot_and_table_and_escapes_names(report: Report) -> None:
    page = render_html(report)
    assert 'id="chart-precision-0"' in page and 'id="precision-table-0"' in page
    assert HOSTILE not in page
    assert 'id="precision"' not in render_html(sample())
