"""Reconstruction of layers behind a cut: exact where channels are redundant, guarded everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tersor.program import Program
from tersor.recover import Correspondence
from tersor.recover.layerwise import layerwise
from tersor.recover.least_squares import LeastSquares
from tersor.recover.records import LayerRecord
from tersor.recover.samples import Samples, split
from tests.recover.models import batches, cut_groups, duplicated, first_half, program_of, unchanged


def behind_depthwise() -> nn.Module:
    depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    model = duplicated(nn.Conv2d(3, 8, 1), nn.Sequential(depthwise, nn.ReLU(), nn.Conv2d(8, 4, 1)))
    with torch.no_grad():
        depthwise.weight[4:], depthwise.bias[4:] = depthwise.weight[:4], depthwise.bias[:4]  # type: ignore[index]
    return model


REDUNDANT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: duplicated(nn.Linear(6, 16), nn.Linear(16, 4)), (6,)),
    "linear without bias": (lambda: duplicated(nn.Linear(6, 16), nn.Linear(16, 4, bias=False)), (3, 6)),
    "conv1d": (lambda: duplicated(nn.Conv1d(3, 8, 3), nn.Conv1d(8, 4, 3, stride=2)), (3, 12)),
    "conv2d": (lambda: duplicated(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)), (3, 6, 6)),
    "transposed": (lambda: duplicated(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 4, 3, stride=2)), (3, 5, 5)),
    "behind a depthwise one": (behind_depthwise, (3, 5, 5)),
}


def redundant(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    build, shape = REDUNDANT[name]
    return build(), shape


def repaired(
    original: Program, damaged: Program, link: Correspondence, samples: Samples, repair: LeastSquares | None = None
) -> tuple[Program, list[LayerRecord]]:
    return layerwise(original, damaged, link, samples, [repair or LeastSquares()])


def distance(left: Program, right: Program, x: Tensor) -> float:
    wanted, got = left.run([x])[0], right.run([x])[0]
    return float((wanted - got).norm() / wanted.norm())


@pytest.mark.parametrize("name", REDUNDANT)
def test_a_redundant_layer_is_recovered_exactly(name: str) -> None:
    model, shape = redundant(name)
    calibration = batches(shape)
    original = program_of(model, calibration[0][0])
    damaged, link = cut_groups(original, first_half)
    intact = unchanged(original), unchanged(damaged)
    program, records = repaired(original, damaged, link, split(original, calibration))
    (fresh,) = batches(shape, count=1, seed=7)[0]
    assert distance(original, damaged, fresh) > 0.1
    assert distance(original, program, fresh) < 1e-5
    assert records and all(record.kept and record.after < record.before for record in records[:1])
    assert all(check() for check in intact)


def test_the_solution_is_numpys_on_a_toy() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    calibration = batches((4,))
    original = program_of(model, calibration[0][0])
    damaged, link = cut_groups(original, first_half)
    samples = split(original, calibration)
    program, _ = repaired(original, damaged, link, samples, LeastSquares(dampings=(1e-12,)))
    x = torch.cat([flat[0] for flat in samples.fit])
    with torch.no_grad():
        hidden, wanted = model[1](model[0](x))[:, :4].double().numpy(), model(x).double().numpy()
    solved = np.linalg.lstsq(np.hstack([hidden, np.ones((len(hidden), 1))]), wanted, rcond=None)[0]
    np.testing.assert_allclose(program.weights["2.weight"].T.numpy(), solved[:4], atol=1e-5)
    np.testing.assert_allclose(program.weights["2.bias"].numpy(), solved[4], atol=1e-5)


class Depthwise(nn.Module):
    """A depthwise or grouped convolution whose input loses part of its scale in the damaged program."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.conv = nn.Conv2d(6, 12, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x * self.scale)


@pytest.mark.parametrize("groups", [2, 6])
def test_grouped_layers_are_solved_group_by_group(groups: int) -> None:
    calibration = batches((6, 5, 5))
    original = program_of(Depthwise(groups).eval(), calibration[0][0])
    damaged = original.clone()
    damaged.weights["scale"] = torch.linspace(0.3, 3, 6).reshape(6, 1, 1)
    program, records = repaired(original, damaged, Correspondence(), split(original, calibration))
    (fresh,) = batches((6, 5, 5), count=1, seed=7)[0]
    assert distance(original, damaged, fresh) > 0.3 and distance(original, program, fresh) < 1e-5
    assert [record.node for record in records] == [node.name for node in program.nodes if "conv" in node.name][-1:]


def test_undamaged_layers_are_not_touched() -> None:
    model, shape = redundant("linear")
    calibration = batches(shape)
    original = program_of(model, calibration[0][0])
    program, records = repaired(original, original.clone(), Correspondence(), split(original, calibration))
    assert not records and all(program.weights[name] is original.weights[name] for name in program.weights)


def test_an_update_that_fails_on_held_out_inputs_is_refused() -> None:
    """The inputs to judge on are unlike those to fit on, so that whatever is learnt there is wrong."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model[0].weight[4:, :] = -model[0].weight[:4, :]  # type: ignore[index, operator]
        model[0].bias.zero_()  # type: ignore[operator]
        model[2].weight[:, 4:] = 0  # type: ignore[operator]
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    original = program_of(model, x)
    damaged = original.clone()
    # Damage that shows only on the inputs to fit on: the first of them would pull the layer away from the truth.
    damaged.weights["0.weight"] = original.weights["0.weight"] + 0.05 * torch.randn(8, 4)
    samples = Samples(((x,),), ((x * 0,),), separate=True)
    program, records = repaired(original, damaged, Correspondence(), samples)
    assert [record.kept for record in records] == [False] * len(records) and records
    assert all("not fitted on" in record.reason for record in records)
    assert torch.equal(program.weights["2.weight"], damaged.weights["2.weight"])


class Residual(nn.Module):
    """Two blocks on a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.second = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x)
        return x + self.second(x)


def test_a_layer_makes_up_for_what_the_residual_stream_lacks() -> None:
    calibration = batches((8,), count=16)
    original = program_of(Residual().eval(), calibration[0][0])
    damaged = original.clone()
    damaged.weights["first.2.weight"] = torch.zeros(8, 16)
    unwritable = damaged.weights["first.0.weight"]
    assert unwritable is original.weights["first.0.weight"]
    samples = split(original, calibration)
    # The first block is left broken: only its bias may move. The second must then do what it can for both.
    halfway, _ = repaired(original, damaged, Correspondence(), samples, LeastSquares(dampings=(math.inf,)))
    program, _ = repaired(original, damaged, Correspondence(), samples)
    (fresh,) = batches((8,), count=1, size=64, seed=7)[0]
    assert distance(original, program, fresh) < 0.2 * distance(original, halfway, fresh)


def test_shared_weights_are_left_alone_with_a_reason() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.layer = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.relu(self.layer(self.enter(x))))

    calibration = batches((5,))
    original = program_of(Tied().eval(), calibration[0][0])
    damaged = original.clone()
    damaged.weights["enter.weight"] = original.weights["enter.weight"] * 1.5
    program, records = repaired(original, damaged, Correspondence(), split(original, calibration))
    assert torch.equal(program.weights["layer.weight"], original.weights["layer.weight"])
    assert records[0].method == "least-squares" and records[0].kept


def test_inputs_that_are_not_finite_do_not_spoil_the_fit() -> None:
    model, shape = redundant("linear")
    calibration = batches(shape)
    calibration[0][0][0, 0], calibration[1][0][3, 2] = math.nan, math.inf
    original = program_of(model, batches(shape)[0][0])
    damaged, link = cut_groups(original, first_half)
    program, _ = repaired(original, damaged, link, split(original, calibration))
    (fresh,) = batches(shape, count=1, seed=7)[0]
    assert distance(original, program, fresh) < 1e-5


def test_the_seed_fixes_the_chosen_positions() -> None:
    model, shape = redundant("conv2d")
    calibration = batches(shape)
    original = program_of(model, calibration[0][0])
    damaged, link = cut_groups(original, first_half)
    damaged.weights["0.weight"] = damaged.weights["0.weight"] * 0.9
    samples = split(original, calibration)
    made = [repaired(original, damaged, link, samples, LeastSquares(rows=64, seed=s))[0] for s in (0, 0, 1)]
    assert torch.equal(made[0].weights["2.weight"], made[1].weights["2.weight"])
    assert not torch.equal(made[0].weights["2.weight"], made[2].weights["2.weight"])


def test_half_precision_weights_stay_in_half_precision() -> None:
    model = duplicated(nn.Linear(6, 16), nn.Linear(16, 4, bias=False)).to(torch.bfloat16)
    calibration = [(flat[0].to(torch.bfloat16),) for flat in batches((6,))]
    original = program_of(model, calibration[0][0])
    damaged, link = cut_groups(original, first_half)
    program, records = repaired(original, damaged, link, split(original, calibration))
    assert {value.dtype for value in program.weights.values()} == {torch.bfloat16}
    assert records[-1].after < 0.01 * records[-1].before
