"""The page in a real browser: scripts run, charts are drawn, the graph zooms, nothing hostile is executed."""

import re
import shutil
import subprocess

import pytest

from tests.report.samples import hostile, large, sample

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--virtual-time-budget=5000", "--dump-dom",
)  # fmt: skip


@pytest.fixture
def dom(tmp_path):
    """The page's document after its scripts and then ``script`` ran."""

    def load(report, script=""):
        path = report.html(tmp_path / "report.html")
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
        command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return load


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, pattern
    return match[1]


def view(dom, graph):
    panel = dom.split(f'data-graph="{graph}"')[1]
    return [float(part) for part in found(r'viewBox="([^"]*)"', panel).split()]


def click(graph, action, times=1):
    selector = f'[data-graph="{graph}"] [data-do="{action}"]'
    return f"for (let i = 0; i < {times}; i++) document.querySelector('{selector}').click();"


def test_scripts_run_to_their_end_and_charts_are_drawn(dom):
    text = dom(sample())
    assert re.search(r'<html[^>]*data-ready="true"', text)
    assert text.count('class="main-svg"') >= 3
    assert "3 of 3" in text


def test_zoom(dom):
    script = click("before", "fit") + click("after", "fit") + click("after", "in", 2)
    text = dom(sample(), script)
    whole, closer = view(text, "before"), view(text, "after")
    assert closer[2] == pytest.approx(whole[2] * 0.49, rel=0.01)
    assert closer[0] > whole[0] and closer[3] < whole[3]


def test_next_mark_shows_what_was_changed(dom):
    panel = dom(sample(), click("before", "next")).split('data-graph="before"')[1].split("</figure>")[0]
    assert re.search(r'class="node operator removed picked"', panel)
    assert "removed by a pass" in panel.split('class="detail"')[1]


def test_filter_hides_rows(dom):
    script = """const box = document.querySelector('[data-target="passes-table"] select');
    box.value = 'dropped'; box.dispatchEvent(new Event('change'));"""
    text = dom(sample(), script)
    assert "1 of 3" in text
    assert len(re.findall(r'<tr data-status="\w+" hidden="">', text)) == 2


def test_hostile_names_do_nothing(dom):
    text = dom(hostile())
    assert re.search(r'<html[^>]*data-ready="true"', text)
    assert "data-hacked" not in text


def test_two_thousand_nodes_stay_usable(dom):
    script = f"""const began = performance.now(); {click("after", "in", 5)} {click("after", "next", 2)}
    document.documentElement.dataset.took = Math.round(performance.now() - began);"""
    text = dom(large(), script)
    assert text.count('class="node ') >= 2000
    assert int(found(r'data-took="(\d+)"', text)) < 2000
    assert "node_1500" in text.split('data-graph="after"')[1].split('class="detail"')[1][:300]
