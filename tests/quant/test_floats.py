"""Small floating-point formats against torch's and ml_dtypes' types, and blocks against the specification by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.quant.floats import (
    BLOCKS,
    FLOATS,
    MAGNITUDES,
    Blocks,
    dequantize,
    dequantize_blocks,
    floating,
    quantize,
    quantize_blocks,
    rounded,
    rounded_blocks,
    scale_of,
)

ONE = torch.ones(())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def every_value(name: str) -> Tensor:
    """All finite numbers of a format, sorted, with one zero."""
    codes = torch.arange(256, dtype=torch.uint8)
    if name == "e2m1":
        return torch.tensor([-item for item in MAGNITUDES[:0:-1]] + list(MAGNITUDES))
    values = codes.view(FLOATS[name].dtype).float()
    return values[values.isfinite()].unique()


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
def test_torch_casts_give_the_same_bits(name: str) -> None:
    on = floating(name)
    value = torch.cat([normal(4000) * 10.0 ** (normal(4000, seed=1) * 2), every_value(name), -torch.zeros(1)])
    value = value[value.abs() <= on.highest]
    made = quantize(value, ONE, name)
    assert made.dtype == on.dtype
    assert torch.equal(made.view(torch.uint8), value.to(on.dtype).view(torch.uint8))


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1"])
def test_midpoints_go_to_the_even_code_and_double_precision_is_not_rounded_twice(name: str) -> None:
    values = every_value(name).double()
    values = values[values >= 0]
    middle = (values[1:] + values[:-1]) / 2
    codes = torch.arange(len(values))
    even = torch.where(codes[:-1] % 2 == 0, values[:-1], values[1:])
    assert torch.equal(rounded(middle, ONE, name), even)
    assert torch.equal(rounded(middle * (1 + 1e-12), ONE, name), values[1:])
    assert torch.equal(rounded(middle * (1 - 1e-12), ONE, name), values[:-1])
    assert torch.equal(rounded(-middle, ONE, name), -even)
    assert torch.equal(rounded(values, ONE, name), values)


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1"])
def test_saturation(name: str) -> None:
    top = FLOATS[name].highest
    value = torch.tensor([top * 1.01, 1e30, torch.inf, -torch.inf, -top * 4], dtype=torch.float32)
    assert torch.equal(rounded(value, ONE, name), torch.tensor([top, top, top, -top, -top]))


def test_known_bits() -> None:
    """Tables 1 of arXiv:2209.05433 and of the OCP specification."""
    value = torch.tensor([448.0, 2**-9, 2**-6, 1.0, -448.0, 0.0])
    assert quantize(value, ONE, "e4m3").view(torch.uint8).tolist() == [0x7E, 0x01, 0x08, 0x38, 0xFE, 0]
    value = torch.tensor([57344.0, 2**-16, 2**-14, 1.0, -57344.0, 0.0])
    assert quantize(value, ONE, "e5m2").view(torch.uint8).tolist() == [0x7B, 0x01, 0x04, 0x3C, 0xFB, 0]
    value = torch.tensor([6.0, 0.5, 1.0, -6.0, 0.0, -0.1])
    assert quantize(value, ONE, "e2m1").tolist() == [0b0111, 0b0001, 0b0010, 0b1111, 0, 0b1000]


def test_e2m1_is_that_of_ml_dtypes() -> None:
    types = pytest.importorskip("ml_dtypes", reason="it has four-bit floats")
    value = torch.cat([normal(3000) * 3, torch.arange(-7, 7, 0.125)])
    wanted = value.numpy().astype(types.float4_e2m1fn)
    assert quantize(value, ONE, "e2m1").tolist() == wanted.view("uint8").tolist()
    codes = torch.arange(16, dtype=torch.uint8)
    assert dequantize(codes, ONE, "e2m1").tolist() == codes.numpy().view(types.float4_e2m1fn).astype("float32").tolist()


def test_scales_broadcast_and_dtypes_stay() -> None:
    value = normal(5, 40) * torch.logspace(-3, 3, 5)[:, None]
    scale = scale_of(value.abs().amax(1, keepdim=True), "e4m3")
    made = rounded(value, scale, "e4m3")
    assert float(((made - value).abs() / value.abs().amax(1, keepdim=True)).max()) < 2**-4
    assert torch.equal(made, quantize(value, scale, "e4m3").float() * scale)
    assert rounded(value.bfloat16(), scale, "e5m2").dtype == torch.bfloat16
    assert scale_of(torch.tensor([0.0, 448.0, 1e-44]), "e4m3").tolist() == [1.0, 1.0, torch.finfo(torch.float32).tiny]


def by_hand(block: Tensor, step: float) -> list[float]:
    """The nearest E2M1 multiple of a step to each value, ties to the even code, one by one."""
    found = []
    for value in block.tolist():
        size = abs(value) / step
        code = min(range(8), key=lambda code: (abs(MAGNITUDES[code] - size), code % 2))
        found.append(math.copysign(MAGNITUDES[code] * step, value))
    return found


def test_mxfp4_by_hand() -> None:
    value = normal(6, 64) * 10.0 ** torch.arange(-3, 3.0)[:, None]
    made = quantize_blocks(value, "mxfp4")
    assert made.scale.shape == (6, 2) and made.scale.dtype == torch.float8_e8m0fnu and float(made.whole) == 1
    assert made.code.shape == (6, 64) and made.code.dtype == torch.uint8 and int(made.code.max()) < 16
    back = dequantize_blocks(made)
    for row in range(6):
        for index in range(2):
            block = value[row, index * 32 : index * 32 + 32]
            exponent = math.floor(math.log2(float(block.abs().max()))) - 2
            assert int(made.scale.view(torch.uint8)[row, index]) == exponent + 127
            assert back[row, index * 32 : index * 32 + 32].tolist() == by_hand(block, 2.0**exponent)


def test_nvfp4_by_hand() -> None:
    value = normal(6, 48) * 10.0 ** torch.arange(-2, 1, 0.5)[:, None]
    made = quantize_blocks(value, "nvfp4")
    assert made.scale.shape == (6, 3) and made.scale.dtype == torch.float8_e4m3fn
    whole = torch.tensor(float(value.abs().max()) / (6 * 448))
    torch.testing.assert_close(made.whole, whole)
    assert float(made.scale.float().max()) == 448.0
    back = dequantize_blocks(made)
    for row in range(6):
        for index in range(3):
            part = slice(index * 16, index * 16 + 16)
            block = value[row, part]
            scale = (block.abs().max() / 6 / made.whole).to(torch.float8_e4m3fn).float()
            assert float(scale) == float(made.scale[row, index].float())
            torch.testing.assert_close(back[row, part], torch.tensor(by_hand(block, float(scale * made.whole))))


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_blocks_of_representable_values_come_back(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    code = torch.randint(0, 8, (4, 64), generator=generator).to(torch.uint8)
    code[:, :: BLOCKS[name]] = 7
    scale = torch.full((4, 64 // BLOCKS[name]), 2.0)
    stored = scale.to(torch.float8_e8m0fnu) if name == "mxfp4" else (scale * 224).to(torch.float8_e4m3fn)
    value = dequantize_blocks(Blocks(name, code, stored, ONE))
    made = quantize_blocks(value, name)
    assert torch.equal(made.code, code) and torch.equal(dequantize_blocks(made), value)


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_extremes(name: str) -> None:
    size = BLOCKS[name]
    assert not dequantize_blocks(quantize_blocks(torch.zeros(2, size), name)).any()
    mixed = torch.cat([torch.zeros(1, size), torch.ones(1, size)], 1)
    torch.testing.assert_close(rounded_blocks(mixed, name), mixed)
    tiny = rounded_blocks(torch.full((1, size), 1e-44), name)
    assert bool(tiny.isfinite().all()) and float(tiny.abs().max()) <= 1e-37
    huge = rounded_blocks(torch.full((1, size), 3e38), name)
    assert bool(huge.isfinite().all()) and float(huge.min()) > 1.9e38
    assert rounded_blocks(torch.ones(size, dtype=torch.float16), name).dtype == torch.float16
    beyond = quantize_blocks(torch.full((1, size), 1e300, dtype=torch.float64), "mxfp4") if name == "mxfp4" else None
    assert beyond is None or int(beyond.scale.view(torch.uint8)) == 254


def test_a_known_tensor_scale_saturates() -> None:
    value = torch.full((1, 16), 10.0)
    made = quantize_blocks(value, "nvfp4", whole=torch.tensor(1.0 / (6 * 448)))
    torch.testing.assert_close(dequantize_blocks(made), torch.ones(1, 16))
    small = quantize_blocks(torch.tensor([1e-9] * 16 + [1.0] * 16), "nvfp4")
    assert float(small.scale[0].float()) == 0.0 and not small.code[:16].any()


def test_smaller_blocks_cost_less() -> None:
    value = normal(64, 64) * 10.0 ** normal(64, 64, seed=1)
    errors = {name: float((rounded_blocks(value, name) - value).square().sum()) for name in BLOCKS}
    whole = rounded(value, scale_of(value.abs().max(), "e2m1"), "e2m1")
    assert errors["nvfp4"] < errors["mxfp4"] < float((whole - value).square().sum())


def test_what_is_refused() -> None:
    bad = torch.tensor([1.0, torch.nan] * 16)
    for name in FLOATS:
        with pytest.raises(UsageError, match=f"{name} are NaN"):
            quantize(bad, ONE, name)
    for name in BLOCKS:
        for value in (bad, torch.full((32,), torch.inf)):
            with pytest.raises(UsageError, match=f"{name} are NaN or infinite"):
                quantize_blocks(value, name)
    for scale in (0.0, -1.0, torch.nan, torch.inf):
        with pytest.raises(UsageError, match="not positive and finite"):
            quantize(ONE, torch.tensor(scale), "e4m3")
        with pytest.raises(UsageError, match="one positive number"):
            quantize_blocks(torch.ones(16), "nvfp4", whole=torch.tensor(scale))
    with pytest.raises(UsageError, match="groups of 32"):
        quantize_blocks(torch.ones(33), "mxfp4")
    with pytest.raises(UsageError, match="did you mean 'e4m3'"):
        floating("e4m3fn")
    with pytest.raises(UsageError, match="did you mean 'nvfp4'"):
        quantize_blocks(torch.ones(16), "nvfp")
