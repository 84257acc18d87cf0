"""The planner from end to end, on a small network; times are predicted, so that nothing depends on the machine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tersor
from tersor.errors import MetricError, UsageError
from tersor.search import candidates, plan
from tersor.search.build import Workbench


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.third, self.head = nn.Linear(32, 64), nn.Linear(64, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.second(torch.relu(self.first(image)))).mean((2, 3))
        return self.head(torch.relu(self.third(hidden)))


@pytest.fixture(autouse=True)
def few_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two passes, and a machine of which nothing is known."""
    monkeypatch.setattr(plan, "candidates", partial(candidates.candidates, names=("prune", "quantize")))
    monkeypatch.setattr("tersor.passes.prune.RATIOS", (0.2, 0.5, 0.8))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def planned(**options: Any) -> tersor.Optimized:
    torch.manual_seed(0)
    model, batches = Net().eval(), [(torch.randn(4, 3, 12, 12),) for _ in range(8)]
    rest: dict[str, Any] = {
        "calibration": batches, "budget": 0.02, "backend": "onnxruntime", "seconds": 0, "progress": False,
    }  # fmt: skip
    made: tersor.Optimized = tersor.optimize(model, batches[0], **rest | options)
    return made


def test_a_plan_stays_within_the_budget_and_can_be_made_again_without_a_search() -> None:
    fast = planned()
    assert fast.report.plan is not None and fast.report.quality is not None
    assert fast.report.plan.chosen and fast.report.quality.after >= 0.98 * fast.report.quality.before
    chosen = next(trial for trial in fast.pareto if trial.status == "chosen")
    assert chosen.quality == pytest.approx(fast.report.quality.after, abs=1e-6)
    times, losses = zip(*[(trial.measured, trial.lost) for trial in fast.pareto], strict=True)
    assert list(times) == sorted(times) and list(losses) == sorted(losses, reverse=True)
    again = planned(passes=fast.report.pipeline)
    assert again.report.quality is not None and again.report.plan is None
    assert again.report.quality.after == pytest.approx(fast.report.quality.after, abs=1e-6)
    assert again.report.after.operators == fast.report.after.operators
    reasons = [trial.reason for trial in fast.report.plan.trials if trial.status != "chosen"]
    assert reasons and all(reasons)


def test_it_is_deterministic_and_goes_on_from_its_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = planned(study=tmp_path / "a.sqlite3")
    made: list[str] = []
    whole = Workbench.trial

    def counted(self: Workbench, selection: Any, patience: float) -> Any:
        made.append(str(selection))
        return whole(self, selection, patience)

    monkeypatch.setattr(Workbench, "trial", counted)
    again = planned(study=tmp_path / "a.sqlite3", resume=True)
    assert made == []
    afresh = planned(study=tmp_path / "b.sqlite3")
    assert made
    plans = [item.report.plan for item in (first, again, afresh)]
    assert all(item is not None and plans[0] is not None and item.chosen == plans[0].chosen for item in plans)


def test_a_latency_that_is_reached_costs_no_more_than_it_must() -> None:
    fast = planned(latency="60%", budget=1.0)
    assert fast.report.plan is not None and fast.report.plan.verdict.startswith("the latency is reached")
    chosen = next(trial for trial in fast.report.plan.trials if trial.status == "chosen")
    assert chosen.measured is not None and chosen.measured <= 0.6
    faster = [t for t in fast.report.plan.trials if t.measured is not None and t.measured <= 0.6]
    assert min(t.lost or 0.0 for t in faster) == chosen.lost


def test_an_impossible_latency_gives_the_best_and_says_how_far_it_is() -> None:
    fast = planned(latency="1%")
    assert fast.report.plan is not None and fast.report.plan.chosen
    assert "the latency is not reached" in fast.report.plan.verdict and "times less" in fast.report.plan.verdict


def test_with_a_budget_of_zero_nothing_that_loses_is_kept() -> None:
    fast = planned(latency="50%", budget=0.0)
    assert fast.report.plan is not None and fast.report.quality is not None
    assert fast.report.quality.after >= fast.report.quality.before
    assert "the latency is not reached" in fast.report.plan.verdict


def test_milliseconds_need_a_machine_that_is_known() -> None:
    with pytest.raises(UsageError, match="give a share such as"):
        planned(latency=5.0)


@pytest.mark.parametrize(
    "options",
    [{"latency": "5ms", "passes": "quantize"}, {"latency": "soon"}, {"study": "x", "budget": 0.0},
     {"resume": True, "passes": "quantize"}, {"target": "h2000"}],
)  # fmt: skip
def test_wishes_that_contradict_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        planned(**options)


def agreement(model: Any) -> float:
    torch.manual_seed(1)
    x = torch.randn(4, 3, 12, 12)
    torch.manual_seed(0)
    with torch.no_grad():
        wanted = Net().eval()(x)
        return float(1 - (model(x) - wanted).norm() / wanted.norm())


def test_a_noisy_metric_is_averaged_and_told() -> None:
    noise = random.Random(0)
    fast = planned(metric=lambda model: agreement(model) + noise.gauss(0, 0.01))
    assert any("the metric is noisy" in note for note in fast.report.notes)


def test_a_metric_that_fails_on_candidates_costs_these(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    def fails(model: Any) -> float:
        calls.append(agreement(model))
        if calls[-1] < 0.99:
            raise RuntimeError("no such class")
        return calls[-1]

    fast = planned(metric=fails)
    assert fast.report.plan is not None
    assert any("the metric raised RuntimeError: no such class" in t.reason for t in fast.report.plan.trials)
    with pytest.raises(MetricError, match="the metric gave nan"):
        planned(metric=lambda model: float("nan"))


def test_ctrl_c_returns_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, made = Workbench.trial, [0]

    def interrupted(self: Workbench, selection: Any, patience: float) -> Any:
        made[0] += 1
        if made[0] > 5:
            raise KeyboardInterrupt
        return whole(self, selection, patience)

    monkeypatch.setattr(Workbench, "trial", interrupted)
    fast = planned()
    assert fast.report.plan is not None and any("interrupted" in note for note in fast.report.notes)
    assert len([t for t in fast.report.plan.trials if t.status != "not tried"]) <= 5
    assert fast(torch.randn(4, 3, 12, 12)).shape == (4, 5)


KILLED = """
import sys, tersor
fast = tersor.optimize("zoo:digits-cnn", budget=0.02, seconds=0, progress=False, study=sys.argv[1], resume=True,
                       backend="onnxruntime")
print(fast.report.plan.chosen)
"""


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_with_the_same_plan(tmp_path: Path) -> None:
    def command(where: str) -> list[str]:
        return [sys.executable, "-c", KILLED, str(tmp_path / where)]

    wanted = subprocess.run(command("whole"), capture_output=True, text=True, check=True).stdout
    moments = random.Random(0)
    killed = 0
    while killed < 10:
        worker = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(5, 15))
        if worker.poll() is None:
            os.kill(worker.pid, signal.SIGKILL)
        killed += 1
        worker.wait()
    last = subprocess.run(command("killed"), capture_output=True, text=True, check=True).stdout
    assert last == wanted and wanted.strip()
