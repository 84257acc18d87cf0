"""Importance of directions: against gradients that can be written down."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersor.factor.gradients import importances, metric
from tersor.factor.observe import last_rows
from tersor.rewrite_values import key
from tests.passes.harness import Compute, captured


def layer_names(program) -> list[str]:
    return [node.name for node in program.nodes if key(node) == "linear"]


def test_of_a_linear_layer_with_one_output() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 1))
    x = torch.randn(6, 5)
    program = captured(model, x)
    first, second = layer_names(program)
    found = importances(program, [(x,)], {first: last_rows, second: last_rows})
    outputs = model(x).detach().double()
    spread = (outputs - outputs.mean(0)).square().sum()
    direction = model[1].weight.detach().double()[0]  # type: ignore[operator]
    torch.testing.assert_close(found[first], 6 * torch.outer(direction, direction) / spread, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(found[second], (6 / spread).reshape(1, 1), rtol=1e-4, atol=1e-8)


def test_predicts_how_far_small_errors_move_the_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    x = torch.randn(64, 5)
    program = captured(model, x)
    name = layer_names(program)[0]
    found = importances(program, [(x,)] * 4, {name: last_rows}, seed=1)[name]
    with torch.no_grad():
        hidden, outputs = model[0](x), model(x)
        error = 1e-3 * torch.randn(200, 64, 8)
        moved = (model[2](torch.tanh(hidden + error)) - outputs).double().square().sum((1, 2)).mean()
    spread = (outputs - outputs.mean(0)).double().square().sum()
    predicted = 1e-6 * found.trace()
    assert abs(float(predicted / (moved / spread)) - 1) < 0.15


def test_the_metric_is_a_root_of_the_importance_mixed_with_the_identity() -> None:
    mixing = torch.randn(6, 3, dtype=torch.float64)
    importance = mixing @ mixing.T
    made = metric(importance)
    wanted = 0.9 * importance + 0.1 * importance.trace() / 6 * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(made.root @ made.root, wanted)
    torch.testing.assert_close(made.out_of(made.into(mixing)), mixing)


def test_programs_without_gradients_give_nothing() -> None:
    model, x = Compute(lambda x, w: torch.nn.functional.linear(x, w).argmax(-1), w=torch.randn(4, 5)), torch.randn(3, 5)
    program = captured(model, x)
    assert importances(program, [(x,)], dict.fromkeys(layer_names(program), last_rows)) == {}


def test_a_layer_that_cannot_be_compared_with_the_others_leaves_nothing() -> None:
    def function(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return torch.nn.functional.linear(x, a), torch.nn.functional.linear(x, b).argmax(-1)

    model, x = Compute(function, a=torch.randn(4, 5), b=torch.randn(4, 5)), torch.randn(3, 5)
    program = captured(model, x)
    assert importances(program, [(x,)], dict.fromkeys(layer_names(program), last_rows)) == {}
