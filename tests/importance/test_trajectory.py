"""What later features explain, against least squares; and an index whose message is lost on the way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tersor.errors import UsageError
from tersor.importance.activation import Activation
from tersor.importance.trajectory import Trajectory, _sketch, trajectory
from tests.importance.models import captured, context, drawn, seeded


def test_the_explained_variance_is_that_of_least_squares() -> None:
    later = drawn(200, 4).double()
    index = torch.stack([later @ drawn(4, 2, seed=seed).double() + drawn(200, 2, seed=seed + 9) for seed in (1, 2)], 1)
    x, y = index - index.mean(0), later - later.mean(0)
    across = torch.einsum("snp,sd->npd", x, y) / 200
    found = trajectory(x.square().mean(0), across, y.T @ y / 200, 1e-9)
    for place in range(2):
        solved = torch.linalg.lstsq(y, x[:, place]).solution
        torch.testing.assert_close(found[place], (y @ solved).square().sum() / 200, rtol=1e-5, atol=1e-7)


class Lost(nn.Module):
    """Half of the hidden units speak to outputs that the last layer ignores."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        with torch.no_grad():
            self.second.weight[:4, 4:] = 0
            self.second.weight[4:, :4] = 0
            self.third.weight[:, 4:] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x).relu()).relu())


def test_what_is_lost_on_the_way_does_not_count() -> None:
    case = captured(seeded(Lost), drawn(2, 8))
    group, given = case.group("first.weight", 0), context((drawn(300, 8, seed=3),))
    score = Trajectory()(case.program, case.axes, [group], given)[group.axis]
    local = Activation()(case.program, case.axes, [group], given)[group.axis]
    assert score[4:].mean() < 0.6 * score[:4].mean()
    assert score[4:].mean() / score[:4].mean() < 0.7 * local[4:].mean() / local[:4].mean()


def test_sketches_keep_norms_on_average() -> None:
    values = drawn(400, 300)
    kept = _sketch(values, 24, 0).square().sum(1) / values.square().sum(1)
    assert _sketch(values, 24, 0).shape == (400, 24) and float(kept.mean()) == pytest.approx(1, abs=0.1)
    assert torch.equal(_sketch(values[:, :9], 24, 0)[:, :9], values[:, :9])


def test_options_out_of_range() -> None:
    with pytest.raises(UsageError, match="ridge > 0"):
        Trajectory(ridge=0)
