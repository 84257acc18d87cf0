"""The surgeon's error is that of least squares on the inputs that remain, solved by brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tersor.importance.surgeon as module
from tersor.axes.select import owners
from tersor.errors import UsageError
from tersor.importance.surgeon import Surgeon
from tersor.importance.surgery import Problem, greedy, surgeon
from tests.importance.models import Attention, Convolutions, Mlp, context, drawn, seeded, standard

EXACT = Surgeon(relative=False, damping=1e-9, samples=10**9, prior=0)


def brute(rows: Tensor, weight: Tensor, gone: Tensor) -> Tensor:
    """Mean squared error of the best linear map without some inputs. Shapes [samples, m], [outputs, m], bool [m]."""
    wanted = rows @ weight.T
    solved = torch.linalg.lstsq(rows[:, ~gone], wanted, driver="gelsd").solution
    return (rows[:, ~gone] @ solved - wanted).square().sum() / len(rows)


def read(model: nn.Module, name: str, x: Tensor) -> Tensor:
    """What a module reads."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda _, args, __: seen.append(args[0].detach()))
    model(x)
    handle.remove()
    return seen[0].double()


def test_one_linear_layer() -> None:
    model, case, x = seeded(Mlp), standard(Mlp, 6), drawn(400, 6, seed=3)
    (group,) = case.free
    found = EXACT(case.program, case.axes, [group], context((x[:100],), (x[100:],)))[group.axis]
    rows, weight = read(model, "second", x), model.get_parameter("second.weight").detach().double()
    wanted = torch.stack([brute(rows, weight, torch.arange(5) == index) for index in range(5)])
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-7)


def test_blocks_of_a_head_and_of_its_inner_dimension() -> None:
    model, case, x = seeded(Attention), standard(Attention, 7, 5), drawn(60, 7, 5, seed=3)
    (heads,) = [group for group in case.free if group.kind == "heads"]
    found = EXACT(case.program, case.axes, [heads], context((x,)))[heads.axis]
    rows, weight = read(model, "out", x).flatten(0, 1), model.get_parameter("out.weight").detach().double()
    wanted = torch.stack([brute(rows, weight, torch.arange(12) // 4 == index) for index in range(3)])
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-7)


def test_windows_of_a_convolution() -> None:
    model, case, x = seeded(Convolutions), standard(Convolutions, 3, 9, 9), drawn(120, 3, 9, 9, seed=3)
    (group,) = [g for g in case.free if g.size == 6 and any(m.weight == "last.weight" for m in g.members)]
    (member,) = [item for item in group.members if (item.weight, item.dim) == ("last.weight", 1)]
    found = EXACT(case.program, case.axes, [group], context((x,)))[group.axis]
    last = model.get_submodule("last")
    assert isinstance(last, nn.Conv2d) and not isinstance(last.padding, str)
    columns = F.unfold(read(model, "last", x), last.kernel_size, last.dilation, last.padding, last.stride)
    rows, weight = columns.transpose(1, 2).flatten(0, 1), last.weight.detach().double().flatten(1)
    owned = owners(member.term, group.axis).repeat_interleave(6)
    wanted = torch.stack([brute(rows, weight, owned == index) for index in range(6)])
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-7)


def test_groups_of_a_convolution_are_solved_one_by_one() -> None:
    model, case, x = seeded(Convolutions), standard(Convolutions, 3, 9, 9), drawn(60, 3, 9, 9, seed=3)
    (fast,) = [g for g in case.free if g.size == 4 and any(m.weight == "first.weight" for m in g.members)]
    found = EXACT(case.program, case.axes, [fast], context((x,)))[fast.axis]
    weight = model.get_parameter("grouped.weight").detach().double()
    columns = F.unfold(read(model, "grouped", x), 3, 1, 1, 2).transpose(1, 2).flatten(0, 1).unflatten(1, (2, 36))
    for index in range(4):
        gone = torch.arange(4).repeat_interleave(9) == index
        wanted = sum(brute(columns[:, part], weight[6 * part : 6 * part + 6].flatten(1), gone) for part in range(2))
        torch.testing.assert_close(found[index], wanted, rtol=1e-2, atol=1e-7)


def problem(copies: bool = False) -> tuple[Problem, Tensor]:
    rows = drawn(300, 7).double()
    rows[:, 1] = rows[:, 0] + 1e-3 * drawn(300, seed=9) if copies else rows[:, 1]
    weight = drawn(4, 7, seed=2).double()
    inverse = torch.linalg.inv(rows.T @ rows / 300 + 1e-12 * torch.eye(7).double())
    return Problem(weight, inverse, torch.tensor([0, 1, 2, 2, 3, -1, 4]), torch.full((4,), -1)), rows


def test_errors_with_blocks_of_unequal_size() -> None:
    given, rows = problem()
    wanted = torch.stack([brute(rows, given.weight, given.owners == index) for index in range(5)])
    torch.testing.assert_close(surgeon(given, 5), wanted, rtol=1e-6, atol=1e-9)


def test_outputs_that_go_with_the_index_do_not_count() -> None:
    given, _ = problem()
    paired = Problem(given.weight, given.inverse, given.owners, torch.tensor([0, -1, -1, 4]))
    for index in range(5):
        stays = paired.rows != index
        rest = Problem(given.weight[stays], given.inverse, given.owners, given.rows[stays])
        torch.testing.assert_close(surgeon(paired, 5)[index], surgeon(rest, 5)[index])


def test_the_order_is_that_of_brute_force() -> None:
    given, rows = problem()
    gone, wanted = torch.zeros(7, dtype=torch.bool), torch.zeros(5).double()
    for _ in range(5):
        left = [index for index in range(5) if not bool(gone[given.owners == index].all())]
        errors = {index: brute(rows, given.weight, gone | (given.owners == index)) for index in left}
        cheapest = min(errors, key=lambda index: float(errors[index]))
        gone |= given.owners == cheapest
        wanted[cheapest] = errors[cheapest]
    torch.testing.assert_close(greedy([given], 5), wanted, rtol=1e-5, atol=1e-9)


def test_only_one_of_two_copies_is_dispensable_in_order() -> None:
    given, _ = problem(copies=True)
    both, ordered = surgeon(given, 5), greedy([given], 5)
    assert both[:2].max() < 1e-3 * both[2:].min()
    assert ordered[:2].min() < 1e-3 * both[2:].min() < 0.1 * ordered[:2].max()


def test_portions_do_not_change_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    case, given = standard(Attention, 7, 5), context((drawn(20, 7, 5),))
    for criterion in (Surgeon(), Surgeon(ordered=True)):
        whole = criterion(case.program, case.axes, case.free, given)
        with monkeypatch.context() as patch:
            patch.setattr(module, "BUDGET", 1)
            apart = criterion(case.program, case.axes, case.free, given)
        for axis, score in whole.items():
            torch.testing.assert_close(score, apart[axis])


def test_damping_must_be_positive() -> None:
    with pytest.raises(UsageError, match="above 0"):
        Surgeon(damping=0)


def test_with_fewer_samples_than_inputs_nothing_looks_free() -> None:
    """Five inputs on three samples: each is a combination of the others there, and of no use on other data."""
    case, x = standard(Mlp, 6), drawn(3, 6, seed=3)
    (group,) = case.free
    plain, careful = (
        Surgeon(relative=False, damping=1e-9, samples=10**9, prior=prior)(
            case.program, case.axes, [group], context((x,))
        )[group.axis]
        for prior in (0.0, 1.0)
    )
    model = seeded(Mlp)
    rows, weight = read(model, "second", drawn(400, 6, seed=5)), model.get_parameter("second.weight").detach().double()
    wanted = torch.stack([brute(rows, weight, torch.arange(5) == index) for index in range(5)])
    assert (plain.log() - wanted.log()).abs().mean() > 2 * (careful.log() - wanted.log()).abs().mean()
