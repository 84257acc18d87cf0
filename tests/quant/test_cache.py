"""Caches of bytes: what rounding costs, that a second time changes nothing, and where one range for all would fail."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.quant.cache import MARGIN, Codec, for_keys, for_values


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def keys_of(value: Tensor, bits: int) -> Codec:
    return for_keys(value.amin((0, 2), keepdim=True), value.amax((0, 2), keepdim=True), bits)


@pytest.mark.parametrize("bits", [8, 4])
def test_keys_are_off_by_half_a_step_of_their_channel_at_most(bits: int) -> None:
    value = rows(2, 3, 50, 16) * torch.logspace(-3, 3, 16)
    codec = keys_of(value, bits)
    stored = codec.encode(value)
    assert stored.dtype == torch.uint8 and stored.shape == (2, 3, 50, 16 * bits // 8)
    spread = value.amax((0, 2)).clamp(min=0) - value.amin((0, 2)).clamp(max=0)
    step = MARGIN * spread / (2**bits - 1)
    assert bool(((codec.decode(stored) - value).abs() <= 0.5001 * step[:, None]).all())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("size", [1e-20, 1.0, 3e8])
def test_values_are_off_by_half_a_step_of_their_token(bits: int, size: float) -> None:
    value = rows(2, 3, 50, 16) * torch.logspace(-3, 3, 50)[:, None] * size
    codec = for_values(16, bits)
    stored = codec.encode(value)
    assert stored.shape == (2, 3, 50, 16 * bits // 8 + 2)
    largest, levels = value.abs().amax(-1, keepdim=True), 2 ** (bits - 1) - 1
    clipped = largest / 250  # the scale has seven bits, and may be that much too small
    assert bool(((codec.decode(stored) - value).abs() <= 0.505 * largest / levels + clipped).all())


@pytest.mark.parametrize("bits", [8, 4])
def test_a_second_time_changes_nothing(bits: int) -> None:
    for seed in range(20):
        value = rows(4, 2, 100, 8, seed=seed) * torch.logspace(-6, 6, 100)[:, None]
        for codec in (for_values(8, bits), keys_of(value, bits)):
            stored = codec.encode(value)
            assert torch.equal(codec.encode(codec.decode(stored)), stored)


def test_zeros_stay_zeros() -> None:
    for codec in (for_values(8, 8), keys_of(torch.zeros(1, 2, 3, 8), 8), keys_of(rows(1, 2, 9, 8), 4)):
        assert not codec.decode(codec.encode(torch.zeros(1, 2, 3, 8))).any()


def test_a_range_for_each_channel_keeps_small_channels_beside_large_ones() -> None:
    value = rows(1, 2, 200, 32)
    value[..., ::8] *= 100
    small = torch.ones(32, dtype=torch.bool)
    small[::8] = False
    by_channel, by_token = (
        (codec.decode(codec.encode(value)) - value)[..., small].square().mean()
        for codec in (keys_of(value, 8), for_values(32, 8))
    )
    assert by_channel < 1e-2 * by_token


def test_what_cannot_be_stored_is_refused() -> None:
    with pytest.raises(UsageError, match="wanted one of"):
        for_values(8, 3)
    with pytest.raises(UsageError, match="even number"):
        for_values(7, 4)
