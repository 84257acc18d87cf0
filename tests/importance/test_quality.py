"""On a trained model: what a criterion calls least important matters less than chance and than the most important."""

from __future__ import annotations

import pytest
import torch

from tersor.axes import Group, analyze, groups, zeroed
from tersor.capture import load
from tersor.context import Context
from tersor.importance import Scores, find
from tests.importance.models import Case

pytest.importorskip("sklearn", reason="the digits are in scikit-learn")


@pytest.fixture(scope="module")
def trained() -> tuple[Case, Context, list[torch.Tensor]]:
    from tersor.models_zoo import data
    from tersor.models_zoo.catalog import load as entry

    found = entry("zoo:digits-vit")
    program = load(found.model, found.inputs, found.dynamic)
    axes = analyze(program)
    test = data.load("digits").test
    case = Case(program, axes, groups(program, axes))
    calibration = tuple(flat for flat in found.calibration if isinstance(flat, tuple))[:4]
    return case, Context(calibration=calibration), [test.inputs[0][:300], test.labels[:300]]


def accuracy(case: Case, scores: Scores, test: list[torch.Tensor], highest: bool = False) -> float:
    """Without a quarter of each free group: the lowest, or the highest."""
    kept = {group.axis: _kept(group, -scores[group.axis] if highest else scores[group.axis]) for group in case.free}
    output = zeroed(case.program, case.axes, kept, (test[0],))[0]
    return float((output.argmax(-1) == test[1]).float().mean())


def _kept(group: Group, score: torch.Tensor) -> torch.Tensor:
    return score.argsort(stable=True)[group.size // 4 :].sort().values


@pytest.mark.parametrize("name", ["surgeon", "activation", "taylor", "taylor2", "hessian", "trajectory"])
def test_the_least_important_quarter_matters_least(
    name: str, trained: tuple[Case, Context, list[torch.Tensor]]
) -> None:
    case, context, test = trained
    scores = find(name)(case.program, case.axes, case.free, context)
    chance = [find("random")(case.program, case.axes, case.free, Context(seed=seed)) for seed in range(3)]
    lowest = accuracy(case, scores, test)
    assert lowest > sum(accuracy(case, item, test) for item in chance) / 3
    assert lowest > accuracy(case, scores, test, highest=True) + 0.1
