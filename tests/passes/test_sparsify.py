"""N:M sparsity as a pass: the pattern holds, data help, and targets that gain nothing are spared."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tersor.context import Context
from tersor.errors import UsageError
from tersor.passes.sparsify import Sparsify
from tersor.refresh import refresh
from tersor.sparse.layout import as_matrix
from tersor.sparse.pattern import is_pattern
from tersor.sparse.pattern import parse as pattern_of
from tersor.spec import parse, render
from tersor.target import Target
from tests.factor.zoo import distance, trained
from tests.passes.harness import captured, reasons

GPU = Target("cuda", "cuda", balance=100.0, multiple=8)


def test_a_cpu_gains_nothing() -> None:
    program = captured(nn.Linear(64, 64).eval(), torch.rand(4, 64))
    context = Context(calibration=((torch.rand(4, 64),),))
    Sparsify()(program, context)
    assert not context.taken
    assert "no kernel of target cpu skips the zeros of 2:4: predicted gain 1.00" in reasons(context)


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8"])
def test_every_layer_has_the_pattern(pattern: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 10), nn.Linear(10, 7))
    x = torch.rand(4, 32, 8, 8)
    program, context = captured(model, x), Context(calibration=((x,),), target=GPU)
    Sparsify(pattern=pattern, sweeps=1)(program, context)
    refresh(program)
    assert [site.node for site in context.taken] == ["conv2d", "linear"]
    assert "10 inputs are not a multiple of" in reasons(context)
    for name, weight in program.weights.items():
        if name.endswith("_sparse"):
            assert is_pattern(as_matrix(weight), pattern_of(pattern))
            assert float((weight != 0).float().mean()) == pytest.approx(pattern_of(pattern).density, abs=0.02)


def test_data_do_better_than_magnitude_on_a_trained_model() -> None:
    model = trained("zoo:digits-vit")
    errors, context = {}, Context(calibration=model.calibration, target=GPU)
    for method in ("magnitude", "wanda", "sparsegpt"):
        made, context = model.after(f"sparsify{{method={method}}}", Context(calibration=model.calibration, target=GPU))
        errors[method] = distance(made, model.program, model.calibration[0])
        if method == "sparsegpt":
            assert model.accuracy(made) >= model.accuracy(model.program) - 0.03
    assert len(context.taken) > 10
    assert errors["sparsegpt"] < 0.6 * errors["magnitude"]


def test_few_inputs_and_grouped_convolutions_stay() -> None:
    model, x = nn.Sequential(nn.Conv2d(4, 64, 1), nn.Conv2d(64, 64, 3, groups=64)), torch.rand(2, 4, 8, 8)
    program, context = captured(model, x), Context(calibration=((x,),))
    Sparsify(anyway=True)(program, context)
    assert not context.taken
    assert "4 inputs are fewer than 32" in reasons(context) and "64 groups" in reasons(context)


@pytest.mark.parametrize("text", ["sparsify{pattern=4:2}", "sparsify{pattern=half}", "sparsify{method=best}",
                                  "sparsify{sweeps=-1}", "sparsify{least=0}"])  # fmt: skip
def test_options_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_it_prints_back() -> None:
    assert render(parse("sparsify{pattern=4:8;anyway=True}")) == "sparsify{pattern=4:8;anyway=True}"
