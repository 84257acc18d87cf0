"""The budget of lossy passes: what agreement measures, what a metric may do, what is held out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tersor.capture import load
from tersor.errors import MetricError
from tersor.program import Program
from tersor.quality import Data, Quality, agreement_with


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return load(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), (torch.randn(5, 4),))


def scaled(program: Program, factor: float) -> Program:
    twin = program.clone()
    twin.weights = {name: value * (factor if value.shape[0] == 3 else 1.0) for name, value in program.weights.items()}
    twin.changed()
    return twin


@pytest.mark.parametrize("factor", [1.0, 0.9, 0.5, 0.0, -1.0])
def test_agreement_is_one_less_the_relative_error(program: Program, factor: float) -> None:
    measured = agreement_with(program, [program.inputs])(scaled(program, factor))
    assert measured == pytest.approx(max(0.0, 1.0 - abs(1.0 - factor)), abs=1e-6)


def test_outputs_that_are_not_finite_agree_in_nothing(program: Program) -> None:
    assert agreement_with(program, [program.inputs])(scaled(program, math.inf)) == 0.0


def test_the_budget_is_a_share_of_the_original(program: Program) -> None:
    quality = Quality.of(program, lambda model: 40.0, 0.05, Data.split(program.inputs, ()))
    assert quality.problem(38.0) is None
    problem = quality.problem(37.9)
    assert problem is not None and "5.25%" in problem and "5.00%" in problem


@pytest.mark.parametrize("metric", [lambda model: math.nan, lambda model: "good", lambda model: model.nothing])
def test_a_metric_that_fails_is_an_error_with_its_reason(program: Program, metric: object) -> None:
    with pytest.raises(MetricError, match="metric"):
        Quality.of(program, metric, 0.0, Data.split(program.inputs, ()))  # type: ignore[arg-type]


def test_every_fourth_input_is_held_out() -> None:
    given = [(torch.tensor(float(index)),) for index in range(8)]
    data = Data.split(given[0], given)
    assert [float(item[0]) for item in data.held_out] == [3.0, 7.0]
    assert [float(item[0]) for item in data.calibration] == [0.0, 1.0, 2.0, 4.0, 5.0, 6.0]
