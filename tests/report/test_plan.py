"""The planner's part of the report, in all its forms."""

from __future__ import annotations

from tersor.report.html import render_html
from tersor.report.model import PlanRecord, TrialRecord
from tersor.report.plan import figure, front_rows, time_of
from tests.report.samples import sample


def test_the_text_shows_the_front_the_parts_and_the_reasons() -> None:
    text = sample().text()
    plan = text[text.index("Plan\n") : text.index("\nPasses\n")]
    assert "prune,quantize (chosen)" in plan and "1.2 ms" in plan and "40.0%" in plan
    assert "1.40 times as long" in plan
    assert "prune{ratio=0.8}: too lossy: it loses 5.00% of the 1.00%" in plan
    assert "cast: unsupported: no kernels" in plan and "plans.sqlite3" in plan and "tersor optimize X" in plan


def test_the_page_has_a_section_and_a_picture() -> None:
    page = render_html(sample())
    assert 'id="plan"' in page and 'id="chart-plan"' in page
    assert "unsupported: no kernels" in page and "1.40 times as long" in page


def test_a_report_without_a_plan_has_neither() -> None:
    report = sample()
    report.plan = None
    assert "\nPlan\n" not in report.text() and 'id="plan"' not in render_html(report)


def test_without_milliseconds_times_are_shares() -> None:
    plan = PlanRecord("", None, None, 0.0, trials=[TrialRecord("", "chosen", measured=0.5, quality=1.0, lost=0.0)])
    assert time_of(plan, 0.5) == "50.0%" and time_of(plan, None) == ""
    assert front_rows(plan) == [("exact passes alone (chosen)", "50.0%", "50.0%", "", "1", "0.00%")]
    report = sample()
    report.plan = plan
    drawn = figure(report)
    assert drawn is not None and drawn.layout.xaxis.title.text == "% of the original's time"
