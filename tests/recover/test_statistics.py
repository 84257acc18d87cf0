"""Bias and batch-norm re-estimation against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tersor.program import Program
from tersor.recover import Correspondence
from tersor.recover.layerwise import layerwise
from tersor.recover.samples import split
from tersor.recover.statistics import BatchNorm, Moments, bias_re_estimation, statistics
from tests.recover.models import batches, cut_groups, largest, program_of, unchanged


def normed(x: Tensor, affine: bool = True) -> nn.Module:
    """A batch norm whose running statistics are those of ``x``."""
    norm = nn.BatchNorm2d(x.shape[1], affine=affine)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.normal_(norm.bias)
    norm.running_mean = x.mean((0, 2, 3))
    norm.running_var = x.var((0, 2, 3), unbiased=False)
    return norm


class Scaled(nn.Module):
    """A batch norm behind something that a lossy pass may damage."""

    def __init__(self, norm: nn.Module, channels: int) -> None:
        super().__init__()
        self.norm = norm
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x * self.scale + self.shift)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_takes_the_moments_of_the_damaged_activations(affine: bool) -> None:
    calibration = batches((3, 4, 4))
    x = torch.cat([flat[0] for flat in calibration[:6]])
    original = program_of(Scaled(normed(x, affine), 3).eval(), calibration[0][0])
    damaged = original.clone()
    scale, shift = torch.tensor([0.5, 2.0, 3.0]).view(3, 1, 1), torch.tensor([1.0, 0.0, -1.0]).view(3, 1, 1)
    damaged.weights.update(scale=scale, shift=shift)
    intact = unchanged(damaged)
    program, records = layerwise(original, damaged, Correspondence(), split(original, calibration), [BatchNorm()])
    seen = x * scale + shift
    torch.testing.assert_close(program.weights["norm.running_mean"], seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    variance = seen.var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(program.weights["norm.running_var"], variance, rtol=1e-3, atol=1e-4)
    assert len(records) == 1 and records[0].kept and records[0].after < 1e-3 * records[0].before
    assert intact()


def test_the_peculiarity_of_few_examples_cancels() -> None:
    """Running statistics unlike the examples': the damaged batch norm must map as the original does."""
    x = torch.randn(64, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    scale, shift, epsilon = torch.tensor([1.5, -0.5]), torch.tensor([0.1, 0.2]), 1e-5
    running = Moments(torch.tensor([0.7, -2.0]).double(), torch.tensor([0.3, 4.0]).double())
    factor = scale / (running.variance + epsilon).sqrt()
    wanted = (x - running.mean.view(2, 1, 1)) * factor.view(2, 1, 1) + shift.view(2, 1, 1)
    found = statistics(Moments.of([3 * x + 1]), Moments.of([wanted]), scale, shift, epsilon)
    torch.testing.assert_close(found.mean, 3 * running.mean + 1)
    torch.testing.assert_close(found.variance + epsilon, 9 * (running.variance + epsilon))


def test_channels_that_do_not_vary_keep_their_statistics() -> None:
    flat = Moments(torch.zeros(2).double(), torch.tensor([0.0, 1.0]).double())
    found = statistics(flat, flat, torch.ones(2), torch.zeros(2), 1e-5)
    assert found.mean.isnan().tolist() == [True, False]


def test_moments_skip_what_is_not_finite() -> None:
    value = torch.tensor([[1.0, 1.0], [3.0, float("nan")]])
    found = Moments.of([value])
    assert found.mean.tolist() == [2.0, 1.0] and found.variance.tolist() == [1.0, 0.0]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def means(program: Program, calibration: list[tuple[Tensor, ...]]) -> Tensor:
    return torch.cat([program.run(flat)[0] for flat in calibration]).mean(0)


def test_the_bias_brings_back_the_mean_of_each_channel() -> None:
    calibration = batches((6,))
    original = program_of(mlp(), calibration[0][0])
    damaged, link = cut_groups(original, largest(0.5))
    program, records = layerwise(original, damaged, link, split(original, calibration), [bias_re_estimation()])
    shift = means(original, calibration[:6]) - means(damaged, calibration[:6])
    torch.testing.assert_close(program.weights["2.bias"], damaged.weights["2.bias"] + shift, rtol=1e-4, atol=1e-5)
    assert torch.equal(program.weights["2.weight"], damaged.weights["2.weight"])
    assert [record.method for record in records] == ["bias"] and records[0].damping == float("inf")


def test_a_layer_without_a_bias_gets_one() -> None:
    calibration = batches((6,))
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4, bias=False)).eval()
    original = program_of(model, calibration[0][0])
    damaged, link = cut_groups(original, largest(0.5))
    program, _ = layerwise(original, damaged, link, split(original, calibration), [bias_re_estimation()])
    shift = means(original, calibration[:6]) - means(damaged, calibration[:6])
    torch.testing.assert_close(program.weights["2.bias"], shift, rtol=1e-4, atol=1e-5)
    assert "2.bias" not in damaged.weights
