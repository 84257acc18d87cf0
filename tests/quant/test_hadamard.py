"""Hadamard matrices by their definition, and rotations that leave a network's function as it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.errors import UsageError
from tersor.quant.hadamard import hadamard, keeping_mean, rotate, rotation


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def off(matrix: Tensor) -> float:
    """How far from orthogonal."""
    return float((matrix @ matrix.T - torch.eye(len(matrix))).abs().max())


SIZES = [1, 2, 4, 8, 64, 1024, 12, 24, 48, 192, 384, 768, 20, 40, 80, 320, 640, 28, 36, 44, 56, 60, 76, 84, 108, 896]


@pytest.mark.parametrize("size", SIZES)
def test_the_definition(size: int) -> None:
    made = hadamard(size)
    assert made.shape == (size, size) and made.dtype == torch.float64
    torch.testing.assert_close(made.abs(), torch.full_like(made, size**-0.5), rtol=1e-15, atol=0)
    assert off(made) < 1e-12 and off(made.T) < 1e-12


def test_powers_of_two_are_scipys() -> None:
    linalg = pytest.importorskip("scipy.linalg", reason="scipy builds Sylvester's matrices")
    for size in (1, 2, 16, 128):
        assert torch.equal((hadamard(size) * size**0.5).round(), torch.from_numpy(linalg.hadamard(size)).double())


@pytest.mark.parametrize("size", [0, -4, 3, 6, 7, 10, 18, 52, 100])
def test_sizes_that_cannot_be_built(size: int) -> None:
    with pytest.raises(UsageError, match=f"size {size} can be built"):
        hadamard(size)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 12, 18, 30, 52, 64, 100, 172, 200])
@pytest.mark.parametrize("blocks", [True, False])
def test_rotations_of_any_size(size: int, blocks: bool) -> None:
    made = rotation(size, seed=4, blocks=blocks)
    assert made.shape == (size, size) and off(made) < 1e-12 and off(made.T) < 1e-12
    assert torch.equal(made, rotation(size, seed=4, blocks=blocks))
    if size > 4 and not blocks:
        assert not torch.equal(made, rotation(size, seed=5))


def test_blocks_mix_within_themselves_and_otherwise_everything_mixes() -> None:
    apart = rotation(43 * 8, blocks=True)
    assert int((apart != 0).sum()) == 43 * 8 * 8
    assert int((apart[:8, 8:] != 0).sum()) == 0
    assert bool((rotation(43 * 8) != 0).all())


def test_an_outlier_is_spread() -> None:
    x = torch.zeros(1, 768, dtype=torch.float64)
    x[0, 77] = 100
    turned = x @ rotation(768)
    assert float(turned.abs().max()) < 3.7 and float(turned.norm()) == pytest.approx(100)


@pytest.mark.parametrize("size", [1, 2, 3, 12, 64, 768])
def test_the_mean_is_kept_and_outliers_are_spread_as_well(size: int) -> None:
    made = keeping_mean(rotation(size, seed=2))
    ones = torch.ones(size, dtype=torch.float64)
    assert off(made) < 1e-12
    torch.testing.assert_close(ones @ made, ones)
    x = normal(5, size)
    torch.testing.assert_close(F.layer_norm(x @ made, (size,)), F.layer_norm(x, (size,)) @ made)
    if size == 768:
        assert float(made.abs().max()) < 4 * size**-0.5 and float(made.abs().median()) > 0.9 * size**-0.5
    again = keeping_mean(made)
    torch.testing.assert_close(again, made)


def test_rotating_an_axis_between_two_layers() -> None:
    first, bias, second, x = normal(24, 5), normal(24), normal(3, 24, seed=1), normal(7, 5, seed=2)
    wanted = F.linear(F.linear(x, first, bias), second)
    for turn in (rotation(24, seed=3), rotation(8, seed=3), rotation(3, seed=3)):
        hidden = F.linear(x, rotate(first, 0, turn), rotate(bias, 0, turn))
        assert not torch.allclose(hidden, F.linear(x, first, bias))
        torch.testing.assert_close(F.linear(hidden, rotate(second, 1, turn)), wanted)


def test_rotating_channels_of_convolutions_and_dtypes() -> None:
    first, second, x, turn = normal(12, 3, 3, 3), normal(5, 12, 1, 1), normal(2, 3, 6, 6), rotation(12)
    wanted = F.conv2d(F.conv2d(x, first), second)
    torch.testing.assert_close(F.conv2d(F.conv2d(x, rotate(first, 0, turn)), rotate(second, -3, turn)), wanted)
    assert rotate(first.half(), 0, turn).dtype == torch.float16
    torch.testing.assert_close(rotate(rotate(first, 0, turn), 0, turn.T), first)


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="size 0"):
        rotation(0)
    for dim, turn in ((1, rotation(4)), (2, rotation(2)), (0, torch.ones(2, 3))):
        with pytest.raises(UsageError, match="square matrix whose size divides"):
            rotate(torch.ones(4, 6), dim, turn)
