"""The activation score is the error of the consumer when one index is zeroed, measured by doing it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tersor.axes import Group, zeroed
from tersor.importance.activation import Activation
from tests.importance.models import Attention, Case, Mlp, captured, context, drawn, seeded, standard


class Pointwise(nn.Module):
    """Two 1x1 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


class Transposed(nn.Module):
    """A transposed convolution whose windows do not overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(6, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


class Right(nn.Module):
    """A weight on the right of a product, and one on the left."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.second, self.third = nn.Parameter(drawn(6, 4)), nn.Parameter(drawn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.third @ (self.first(x).relu() @ self.second).mT


class Expert(nn.Module):
    """An einsum with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 6), nn.Parameter(drawn(2, 6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bti,eio->beto", self.first(x).relu(), self.second)


CASES = [(Mlp, (6,)), (Pointwise, (3, 4, 5)), (Transposed, (3, 4, 5)), (Expert, (7, 3))]


@pytest.mark.parametrize(("model", "shape"), CASES)
@pytest.mark.parametrize("relative", [False, True])
def test_it_is_the_error_of_zeroing_one_index(
    model: Callable[[], nn.Module], shape: tuple[int, ...], relative: bool
) -> None:
    case = standard(model, *shape)
    group = case.group("first.weight", 0)
    x = drawn(20, *shape, seed=3)
    found = Activation(relative=relative)(case.program, case.axes, [group], context((x[:8],), (x[8:],)))[group.axis]
    output = case.program.run((x,))[0]
    changed = [
        zeroed(case.program, case.axes, {group.axis: _others(group.size, i)}, (x,))[0] for i in range(group.size)
    ]
    wanted = torch.stack([(output - other).double().square().sum() for other in changed])
    torch.testing.assert_close(found / found.sum(), wanted / wanted.sum(), rtol=1e-4, atol=1e-7)
    if model is Mlp and not relative:
        torch.testing.assert_close(found, wanted / 20, rtol=1e-4, atol=1e-7)
    if model is Mlp and relative:
        bias = case.program.weights["second.bias"]
        torch.testing.assert_close(found, wanted / (output - bias).double().square().sum(), rtol=1e-4, atol=1e-7)


def _others(size: int, index: int) -> Tensor:
    return torch.tensor([other for other in range(size) if other != index])


def test_weights_on_either_side_of_a_product() -> None:
    case = standard(Right, 7, 3)
    x = drawn(9, 7, 3, seed=3)
    hidden = torch.relu(x @ case.program.weights["first.weight"].T + case.program.weights["first.bias"]).double()
    second, third = (case.program.weights[name].double() for name in ("second", "third"))
    for name, dim, rows, energy in (
        ("first.weight", 0, hidden, second.square().sum(1)),
        ("second", 1, hidden @ second, third.square().sum(0)),
    ):
        group = case.group(name, dim)
        found = Activation(relative=False)(case.program, case.axes, [group], context((x,)))[group.axis]
        torch.testing.assert_close(found, rows.square().mean((0, 1)) * energy, rtol=1e-4, atol=1e-6)


def test_the_variance_is_what_a_bias_cannot_make_up_for() -> None:
    model = seeded(Mlp)
    case = captured(model, drawn(2, 6))
    (group,) = case.free
    x = drawn(30, 6, seed=3)
    found = Activation(relative=False, centered=True)(case.program, case.axes, [group], context((x,)))[group.axis]
    hidden = model.get_submodule("first")(x).relu().detach().double()
    wanted = hidden.var(0, correction=0) * model.get_parameter("second.weight").detach().double().square().sum(0)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_queries_and_keys_count_with_both_energies() -> None:
    model = seeded(Attention)
    case = standard(Attention, 7, 5)
    scores, spoken = (_inner(case, f"{name}.weight") for name in ("query", "value"))
    x = drawn(9, 7, 5, seed=3)
    found = Activation(relative=False)(case.program, case.axes, [scores, spoken], context((x,)))
    read: dict[str, Tensor] = {}
    for name in ("query", "key", "out"):
        model.get_submodule(name).register_forward_hook(lambda _, a, y, name=name: read.update({name: (a[0], y)}))
    model(x)
    query, key = (read[name][1].detach().double().reshape(-1, 4).square().mean(0) for name in ("query", "key"))
    mixed = read["out"][0].detach().double().flatten(0, 1).square().mean(0)
    torch.testing.assert_close(found[scores.axis], query * key, rtol=1e-4, atol=1e-7)
    wanted = (mixed * model.get_parameter("out.weight").detach().double().square().sum(0)).reshape(3, 4).sum(0)
    torch.testing.assert_close(found[spoken.axis], wanted, rtol=1e-4, atol=1e-7)


def _inner(case: Case, weight: str) -> Group:
    """The inner dimension of heads that a weight makes."""
    (found,) = [g for g in case.free if g.kind == "head-dim" and any(m.weight == weight for m in g.members)]
    return found


def test_an_output_that_goes_with_its_input_misses_nothing() -> None:
    model = seeded(Attention)
    case = standard(Attention, 7, 5)
    (width,) = [group for group in case.free if group.size == 12]
    x = drawn(9, 7, 5, seed=3)
    found = Activation(relative=False)(case.program, case.axes, [width], context((x,)))[width.axis]
    read: dict[str, Tensor] = {}
    names = ("query", "key", "value", "mix", "head")
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda _, a, __, name=name: read.update({name: a[0]}))
    model(x)
    wanted = torch.zeros(12).double()
    for name in names:
        square = model.get_parameter(f"{name}.weight").detach().double().square()
        square = square - torch.diag(square.diagonal()) if name == "mix" else square
        wanted += square.sum(0) * read[name].detach().double().flatten(0, 1).square().mean(0)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
