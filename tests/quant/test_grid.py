"""Grids against torch's own quantized tensors, and the formula by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor.errors import UsageError
from tersor.quant.grid import GRIDS, affine, dequantize, grid, grouped, quantize, rounded, spread


@pytest.mark.parametrize("name", ["int8", "uint8"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_torch_gives_the_same_levels(name: str, symmetric: bool) -> None:
    torch.manual_seed(0)
    value = torch.randn(500) * 3 + 1
    scale, zero = affine(value.min(), value.max(), grid(name), symmetric=symmetric)
    on = grid(name)
    wanted = torch.fake_quantize_per_tensor_affine(value, float(scale), int(zero), on.lowest, on.highest)
    made = rounded(value, scale, zero, on)
    same = torch.isclose(made, wanted, atol=1e-6)
    assert float(same.float().mean()) > 0.98  # torch multiplies by the inverse of the scale
    assert float((made - wanted).abs().max()) <= 1.001 * float(scale)
    torch.testing.assert_close(dequantize(quantize(value, scale, zero, on), scale, zero), made)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(GRIDS)), st.booleans(),
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20),
)  # fmt: skip
def test_inside_the_range_nothing_is_off_by_more_than_half_a_step(
    name: str, symmetric: bool, values: list[float]
) -> None:
    value = torch.tensor(values)
    scale, zero = affine(value.min(), value.max(), grid(name), symmetric=symmetric)
    made = rounded(value, scale, zero, grid(name))
    assert float((made - value).abs().max()) <= 0.5001 * float(scale) + 1e-6 * float(value.abs().max())
    assert float(rounded(torch.zeros(1), scale, zero, grid(name))) == 0.0


def test_symmetric_ranges_have_the_middle_as_zero() -> None:
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([2.0, 5.0])
    scale, zero = affine(low, high, grid("int8"), symmetric=True)
    assert zero.tolist() == [0, 0]
    torch.testing.assert_close(scale, torch.tensor([2.0 / 127, 5.0 / 127]))
    assert affine(low, high, grid("uint8"), symmetric=True)[1].tolist() == [128, 128]


def test_ranges_without_extent() -> None:
    zeros = torch.zeros(2)
    scale, zero = affine(zeros, zeros, grid("uint8"), symmetric=False)
    assert scale.tolist() == [1.0, 1.0] and zero.tolist() == [0, 0]
    tiny = torch.tensor([1e-44])
    assert bool((affine(tiny, tiny, grid("int8"), symmetric=True)[0] > 0).all())


def test_names_and_groups() -> None:
    with pytest.raises(UsageError, match="did you mean 'int8'"):
        grid("int88")
    assert grouped(torch.zeros(3, 8), 4).shape == (3, 2, 4)
    with pytest.raises(UsageError, match="8 inputs in groups of 3"):
        grouped(torch.zeros(3, 8), 3)
    assert spread(torch.ones(3), torch.zeros(2, 3, 4), 1).shape == (1, 3, 1)
