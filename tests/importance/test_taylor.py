"""First-order changes equal finite differences where the loss is linear, and weight times gradient everywhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tersor.axes import Group, zeroed
from tersor.errors import TersorError
from tersor.importance import find
from tersor.importance.gates import contributions
from tersor.importance.losses import energy, projection
from tersor.importance.taylor import Taylor, Taylor2
from tersor.interface import Flat
from tests.importance.models import Attention, Case, Convolutions, Mlp, Peak, captured, context, drawn, seeded, standard

WEIGHTS = torch.tensor([0.5, -2.0, 1.0])


def linear(outputs: Flat, inputs: Flat) -> Tensor:
    return (outputs[0] * WEIGHTS).sum()


def without(case: Case, group: Group, index: int, inputs: Flat) -> Tensor:
    """The output where an index is zeroed at everything that reads it."""
    stay = torch.tensor([other for other in range(group.size) if other != index])
    return zeroed(case.program, case.axes, {group.axis: stay}, inputs)[0]


def test_a_linear_loss_changes_by_exactly_that() -> None:
    case = captured(seeded(Mlp, bend=False), drawn(2, 6))
    x = drawn(9, 6, seed=3)
    (group,) = case.free
    taylor, taylor2 = (
        kind(loss=linear)(case.program, case.axes, [group], context((x,)))[group.axis] for kind in (Taylor, Taylor2)
    )
    for index in range(group.size):
        change = (case.program.run((x,))[0] - without(case, group, index, (x,))) @ WEIGHTS
        torch.testing.assert_close(taylor[index], change.abs().mean().double(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(taylor2[index], change.square().mean().double(), rtol=1e-4, atol=1e-6)


def test_random_directions_give_the_squared_change_of_the_output() -> None:
    case = captured(seeded(Mlp, bend=False), drawn(2, 6))
    x = drawn(64, 6, seed=3)
    (group,) = case.free
    found = Taylor2(draws=60)(case.program, case.axes, [group], context((x,)))[group.axis]
    output = case.program.run((x,))[0]
    scale = output.square().sum() / len(x)
    for index in range(group.size):
        change = (output - without(case, group, index, (x,))).square().sum(1).mean() / scale
        assert float(found[index]) == pytest.approx(float(change), rel=0.15)


def test_gates_are_weight_times_gradient_at_all_that_reads() -> None:
    """Inner dimensions of heads are read by the product of queries and keys and by the output projection."""
    model = seeded(Attention)
    case = standard(Attention, 7, 5)
    x = drawn(4, 7, 5, seed=3)
    scores, spoken = (
        next(g for g in case.free if g.kind == "head-dim" and any(m.weight == f"{name}.weight" for m in g.members))
        for name in ("query", "value")
    )
    (width,) = [group for group in case.free if group.size == 12]
    (found,) = contributions(case.program, case.axes, [scores, spoken, width], [(x,)], energy)
    output = model(x)
    (0.5 * output.square().sum() / (output.detach().square().sum() / 4)).backward()
    product = {name: (value.detach() * value.grad).double() for name, value in model.named_parameters()}  # type: ignore[operator]
    rows = product["query.weight"].sum(1) + product["query.bias"]
    torch.testing.assert_close(found[scores.axis].sum(0), rows.reshape(3, 4).sum(0), rtol=1e-4, atol=1e-6)
    inputs = product["out.weight"].sum(0)
    torch.testing.assert_close(found[spoken.axis].sum(0), inputs.reshape(3, 4).sum(0), rtol=1e-4, atol=1e-6)
    columns = sum(product[f"{name}.weight"].sum(0) for name in ("query", "key", "value", "mix", "head"))
    torch.testing.assert_close(found[width.axis].sum(0), columns, rtol=1e-4, atol=1e-6)


def test_each_example_is_told_apart() -> None:
    case = standard(Convolutions, 3, 9, 9)
    x = drawn(5, 3, 9, 9, seed=3)

    def loss(outputs: Flat, inputs: Flat) -> Tensor:
        return (outputs[0].square() * WEIGHTS).sum()

    (together,) = contributions(case.program, case.axes, case.free, [(x,)], loss)
    alone = [next(contributions(case.program, case.axes, case.free, [(row[None],)], loss)) for row in x]
    for group in case.free:
        assert together[group.axis].shape == (5, group.size)
        rows = torch.cat([item[group.axis] for item in alone])
        torch.testing.assert_close(together[group.axis], rows, rtol=1e-3, atol=1e-6)


class Swapped(nn.Module):
    """Reads where the first dimension counts positions, not examples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).transpose(0, 1).relu()).sum(0)


def test_values_that_do_not_count_examples_first_are_gated_as_a_whole() -> None:
    case = captured(seeded(Swapped), drawn(3, 4, 6))
    x = drawn(3, 4, 6, seed=3)
    group = case.group("first.weight", 0)
    (found,) = contributions(case.program, case.axes, [group], [(x,)], energy)
    alone = [next(contributions(case.program, case.axes, [group], [(x,)], energy)) for _ in range(2)]
    assert torch.equal(alone[0][group.axis], alone[1][group.axis])
    assert found[group.axis][0].abs().sum() > 0 and found[group.axis][1:].abs().sum() == 0


def test_what_is_never_summed_over_is_gated_in_its_matrix() -> None:
    model, case, x = seeded(Peak), standard(Peak, 6), drawn(7, 6, seed=3)
    (group,) = case.free
    (found,) = contributions(case.program, case.axes, [group], [(x,)], energy)
    output = model(x)
    (0.5 * output.square().sum() / (output.detach().square().sum() / 7)).backward()
    weight = model.get_parameter("first.weight")
    assert weight.grad is not None
    wanted = (weight.detach() * weight.grad).double().sum(1)
    torch.testing.assert_close(found[group.axis].sum(0), wanted, rtol=1e-4, atol=1e-6)


def test_several_outputs_count_alike_and_whole_numbers_do_not() -> None:
    small, large = drawn(4, 3), drawn(4, 5) * 1e3
    loss = energy((small, large, torch.arange(3)), ())
    assert float(loss) == pytest.approx(2 * 0.5 * 4)
    first, second = (float(projection(torch.Generator().manual_seed(seed))((small, large), ())) for seed in (1, 2))
    assert first != second and abs(first) < 20


class Rounded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).argmax(-1)


@pytest.mark.parametrize("name", ["taylor", "taylor2", "hessian"])
def test_a_program_without_gradients_says_what_to_do(name: str) -> None:
    case = captured(seeded(Rounded), drawn(2, 6))
    with pytest.raises(TersorError, match=r"no gradient of the program.*'activation'"):
        find(name)(case.program, case.axes, [case.group("first.weight", 0)], context((drawn(4, 6),)))
