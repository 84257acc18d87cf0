"""Hutchinson's estimate is exact for a diagonal Hessian, and close for any Gauss-Newton matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.importance.hessian import Hessian, diagonal, gauss_newton
from tersor.interface import Flat
from tests.importance.models import Attention, Mlp, captured, context, drawn, seeded, standard


def quadratic(outputs: Flat, inputs: Flat) -> Tensor:
    return 0.5 * outputs[0].square().sum()


def test_a_quadratic_with_orthogonal_features_is_exact() -> None:
    """``0.5 |W h|^2`` summed over examples has ``sum h_i^2`` for each weight of column i, and nothing off the diagonal
    where the features of the examples are orthogonal.
    """
    model = seeded(Mlp, wide=5, hidden=5, bend=False, bias=False)
    with torch.no_grad():
        model.get_parameter("first.weight").copy_(torch.eye(5))
    case = captured(model, drawn(2, 5))
    x = torch.diag(torch.tensor([1.0, 2.0, 3.0, 0.5, 0.0]))
    weight = model.get_parameter("second.weight").detach().double()
    group = case.group("first.weight", 0)
    found = Hessian(loss=quadratic, draws=1)(case.program, case.axes, [group], context((x,)))[group.axis]
    mean = x.double().square().sum(0) / len(x)
    torch.testing.assert_close(found, 0.5 * mean * weight.square().sum(0), rtol=1e-5, atol=1e-8)


def test_both_estimates_approach_the_hessian_of_autograd() -> None:
    model = seeded(Mlp)
    case = captured(model, drawn(2, 6))
    x = drawn(8, 6, seed=3)
    output = case.program.run((x,))[0]
    scale = output.square().sum() / len(x)

    def deviation(outputs: Flat, inputs: Flat) -> Tensor:
        return 0.5 * (outputs[0] - output).square().sum() / scale

    def of(first: Tensor) -> Tensor:
        named = {**dict(model.named_parameters()), "first.weight": first}
        return deviation((torch.func.functional_call(model, named, (x,)),), ()) / len(x)

    first = model.get_parameter("first.weight").detach()
    exact = torch.autograd.functional.hessian(of, first).reshape(30, 30).diagonal().reshape(5, 6).double()
    inputs, generator = [(x,)], torch.Generator().manual_seed(0)
    by_output = gauss_newton(case.program, ["first.weight"], inputs, 300, generator)["first.weight"]
    by_weight = diagonal(case.program, ["first.weight"], inputs, deviation, 300, generator)["first.weight"]
    assert (by_output - exact).norm() < 0.15 * exact.norm()
    assert (by_weight - exact).norm() < 0.3 * exact.norm()


def test_attention_can_be_differentiated_twice() -> None:
    case = standard(Attention, 7, 5)
    found = Hessian(loss=quadratic, draws=1)(case.program, case.axes, case.free, context((drawn(4, 7, 5),)))
    assert all(bool(score.isfinite().all()) for score in found.values())
