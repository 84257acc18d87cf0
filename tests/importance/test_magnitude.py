"""Magnitudes equal slicing by hand; LAMP, normalisation scales and data-free scores equal their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tersor.context import Context
from tersor.errors import UsageError
from tersor.importance import find
from tersor.importance.data_free import DataFree, data_free
from tersor.importance.magnitude import Lamp, Magnitude, Random, lamp
from tests.importance.models import Attention, Case, Convolutions, Mlp, captured, drawn, seeded, standard


def score(case: Case, criterion: object, weight: str, dim: int) -> Tensor:
    group = case.group(weight, dim)
    return find(criterion)(case.program, case.axes, [group], Context())[group.axis]  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("producers", [False, True])
def test_a_hidden_layer_by_hand(norm: int, producers: bool) -> None:
    model = seeded(Mlp)
    case = captured(model, drawn(2, 6))
    rows = [model.get_parameter("first.weight").detach(), model.get_parameter("first.bias").detach()[:, None]]
    rows += [] if producers else [model.get_parameter("second.weight").detach().T]
    wanted = torch.cat(rows, 1).double().norm(norm, dim=1)
    found = score(case, Magnitude(norm, producers, normalize=False), "first.weight", 0)  # type: ignore[arg-type]
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(score(case, Magnitude(norm, producers), "first.weight", 0), wanted / wanted.mean())  # type: ignore[arg-type]


def test_groups_of_a_convolution_by_hand() -> None:
    """The first convolution's channels are (2 groups, 4): an index of the fast axis owns a channel of each group."""
    model = seeded(Convolutions)
    case = captured(model, drawn(2, 3, 9, 9))
    axes = [g for g in case.free if any((m.weight, m.dim) == ("first.weight", 0) for m in g.members)]
    (fast,) = [group for group in axes if group.size == 4]
    found = find(Magnitude(1, normalize=False))(case.program, case.axes, [fast], Context())[fast.axis]
    weights = {name: value.detach().double().abs() for name, value in model.named_parameters()}
    for index in range(4):
        rows = [index, index + 4]
        names = [f"{name}.{part}" for name in ("first", "depthwise") for part in ("weight", "bias")]
        wanted = sum(weights[name][rows].sum() for name in names)
        torch.testing.assert_close(found[index], wanted + weights["grouped.weight"][:, index].sum())


def test_a_stream_into_itself_counts_its_diagonal_once() -> None:
    model = seeded(Attention)
    case = captured(model, drawn(2, 7, 5))
    (width,) = [group for group in case.free if group.size == 12]
    found = find(Magnitude(1, normalize=False))(case.program, case.axes, [width], Context())[width.axis]
    weights = {name: value.detach().double().abs() for name, value in model.named_parameters()}
    for index in range(12):
        rows = sum(weights[f"{name}.{part}"][index].sum() for name in ("embed", "out") for part in ("weight", "bias"))
        columns = sum(weights[f"{name}.weight"][:, index].sum() for name in ("query", "key", "value", "head"))
        mix = weights["mix.weight"]
        both = mix[index].sum() + mix[:, index].sum() - mix[index, index] + weights["mix.bias"][index]
        torch.testing.assert_close(found[index], rows + columns + both)


def test_lamp_is_the_share_of_what_survives() -> None:
    energy = drawn(9).square()
    found = lamp(energy)
    for index in range(9):
        torch.testing.assert_close(found[index], energy[index] / energy[energy >= energy[index]].sum())
    assert lamp(torch.zeros(3)).tolist() == [0, 0, 0]
    assert float(score(standard(Mlp, 6), Lamp(), "first.weight", 0).max()) == 1


def test_chance_follows_the_seed() -> None:
    case = standard(Mlp, 6)
    first, same, other = (Random()(case.program, case.axes, case.free, Context(seed=s)) for s in (1, 1, 2))
    axis = case.free[0].axis
    assert torch.equal(first[axis], same[axis]) and not torch.equal(first[axis], other[axis])


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1)
        self.last = nn.Conv2d(5, 2, 1)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.out(self.norm(self.conv(x)).relu()).relu())


def test_scales_of_batch_norm_and_the_reason_where_there_is_none() -> None:
    model = seeded(Normed)
    case = captured(model, drawn(2, 3, 4, 4))
    context = Context()
    found = find("bn-scale")(case.program, case.axes, case.free, context)
    wanted = model.get_parameter("norm.weight").detach().double().abs()
    torch.testing.assert_close(found[case.group("norm.weight", 0).axis], wanted / wanted.mean())
    (site,) = context.skipped
    assert "'out'" in site.detail and "L2 magnitude" in site.detail
    other = case.group("out.weight", 0)
    torch.testing.assert_close(found[other.axis], Magnitude()(case.program, case.axes, [other], context)[other.axis])


def test_data_free_scores_ignore_the_scale_and_the_number_of_layers() -> None:
    parts = [drawn(6, seed=seed).square() for seed in (1, 2)]
    torch.testing.assert_close(data_free(parts), data_free([parts[0] * 100, parts[1] / 7]))
    torch.testing.assert_close(data_free(parts), data_free(parts * 3))
    model = seeded(Convolutions)
    before = _scores(model)
    with torch.no_grad():
        for name in ("grouped.weight", "head.weight"):
            model.get_parameter(name).mul_(50)
    for first, second in zip(before, _scores(model), strict=True):
        torch.testing.assert_close(first, second)


def _scores(model: nn.Module) -> list[Tensor]:
    case = captured(model, drawn(2, 3, 9, 9))
    return list(DataFree()(case.program, case.axes, case.free, Context()).values())


def test_a_norm_that_is_not_known() -> None:
    with pytest.raises(UsageError, match="choose 1 or 2"):
        Magnitude(norm=3)  # type: ignore[arg-type]
