"""The roofline of the report: every launch is a mark, no mark is above its roof, and nothing breaks without a sheet."""

import pytest
import torch
from torch import nn

from tersor.capture.torch import capture_module
from tersor.cost.record import record
from tersor.report.html import render_html
from tersor.report.model import Report, RooflineLayer, RooflineRecord, Timing
from tersor.report.roofline import figure
from tersor.target import Target, named
from tests.report.samples import HOSTILE, sample


@pytest.fixture(scope="module")
def programs():
    inputs = (torch.randn(4, 64),)
    wide = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64), nn.Softmax(-1))
    return capture_module(wide.eval(), inputs), capture_module(nn.Linear(64, 64).eval(), inputs)


@pytest.fixture
def told(programs):
    report = Report("a model", "", "h100", backend="inductor")
    before, after = programs
    record(report, before, after, named("h100"))
    return report


def marks(made):
    return [trace for trace in made.data if trace.mode == "markers"]


def test_every_launch_is_a_mark_below_the_roof(told):
    before, after = marks(figure(told.rooflines))
    assert (len(before.x), len(after.x)) == tuple(len(one.layers) for one in told.rooflines) == (4, 1)
    drawn = figure(told.rooflines)
    assert drawn is not None
    roofs = [trace for trace in drawn.data if trace.mode == "lines"]
    assert max(max(trace.y) for trace in roofs) == pytest.approx(max(told.rooflines[0].rates.values()))
    for trace in (before, after):
        assert all(y <= 1.0001 * max(told.rooflines[0].rates.values()) for y in trace.y)
    assert all(layer.seconds >= layer.bound for one in told.rooflines for layer in one.layers)


def test_one_program_is_drawn_once(programs):
    report = Report("a model", "", "h100", backend="inductor")
    record(report, programs[0], programs[0], named("h100"))
    assert [one.title for one in report.rooflines] == ["before"]


def test_without_a_sheet_nothing_is_told(programs):
    report = Report("a model", "", "cuda", backend="eager")
    before, after = programs
    record(report, before, after, Target("cuda", "cuda"))
    assert report.rooflines == [] and figure([]) is None


def test_predictions_stand_beside_measured_times(programs):
    fitted = {
        "call": 0.0,
        "wake": 0.0,
        "start": 1e-6,
        "function": 0.0,
        "context": {},
        "interval": [0.8, 1.2],
        "kinds": {},
    }
    target = Target(
        "cpu",
        rates={"float32": 1e11},
        bandwidth=1e10,
        cache=1e7,
        cache_bandwidth=1e11,
        corrections={"onnxruntime": fitted},
    )
    names = ("onnxruntime", "onnxruntime (original)", "eager (original)")
    report = Report("a model", "", "cpu", backend="onnxruntime", timings=[Timing(name, 1, 1, 1, 9) for name in names])
    before, after = programs
    record(report, before, after, target)
    now, was, eager = (timing.predicted_ms for timing in report.timings)
    assert now is not None and was is not None and 0 < now < was and eager is None


def test_page_shows_it_escaped():
    report = sample()
    layer = RooflineLayer(HOSTILE, "linear", "float32", 1e6, 1e4, 1e-5, 1e-6, HOSTILE)
    report.rooflines = [RooflineRecord("before", "cpu", "onnxruntime", {"float32": 1e12}, 1e11, 1e11, [layer])]
    page = render_html(report)
    assert 'id="chart-roofline"' in page and HOSTILE not in page
