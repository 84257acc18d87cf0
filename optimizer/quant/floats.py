"""Floating-point formats of eight and four bits: rounding to them, alone or in blocks that share a scale.

==========  ======================  ========================================================================
format      bits, highest first     values
==========  ======================  ========================================================================
``e4m3``    s eeee mmm              bias 7; largest 448 (0x7E), smallest 2^-9 (0x01); no infinity, NaN is 0x7F
``e5m2``    s eeeee mm              bias 15; largest 57344 (0x7B), smallest 2^-16 (0x01); infinity is 0x7C
``e2m1``    s ee m, low half byte   bias 1; codes 0 to 7 are 0, 0.5, 1, 1.5, 2, 3, 4, 6; 8 to 15 their negatives
``e8m0``    eeeeeeee                2^(code - 127); no sign, no zero, NaN is 0xFF; scales only
==========  ======================  ========================================================================

E4M3 and E5M2: Micikevicius et al., arXiv:2209.05433 (the "fn" form of E4M3). E2M1 and E8M0: OCP Microscaling Formats
(MX) v1.0. Rounding is to nearest, ties to the even code, and saturates: nothing becomes infinite.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.quant.grid import grouped


@dataclass(frozen=True)
class Float:
    """A format of single numbers.

    Attributes:
        name: as users write it.
        mantissa: bits that are stored of it.
        lowest: exponent of the smallest normal number.
        highest: the largest finite number.
        dtype: what codes are stored as; E2M1 is one code per byte until it is packed.
    """

    name: str
    mantissa: int
    lowest: int
    highest: float
    dtype: torch.dtype


FLOATS = {
    "e4m3": Float("e4m3", 3, -6, 448.0, torch.float8_e4m3fn),
    "e5m2": Float("e5m2", 2, -14, 57344.0, torch.float8_e5m2),
    "e2m1": Float("e2m1", 1, 0, 6.0, torch.uint8),
}
"""Formats by name."""
BLOCKS = {"mxfp4": 32, "nvfp4": 16}
"""Formats of blocks by name, each with how many E2M1 numbers share a scale."""
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Values of the E2M1 codes 0 to 7."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """A tensor in blocks along its last dimension; a value is ``e2m1 * scale * whole``.

    Attributes:
        format: "mxfp4" or "nvfp4".
        code: E2M1 codes 0 to 15, uint8 [..., k].
        scale: [..., k / size]: float8_e8m0fnu for mxfp4, float8_e4m3fn and not negative for nvfp4.
        whole: scale of the whole tensor, float32 []; 1 for mxfp4.
    """

    format: str
    code: Tensor
    scale: Tensor
    whole: Tensor


def floating(name: str | Float) -> Float:
    """The format of this name; raises UsageError with the nearest.

    >>> floating("e4m3").highest
    448.0
    """
    if isinstance(name, Float):
        return name
    _known(name, FLOATS, "floating-point format")
    return FLOATS[name]


def _known(name: str, among: dict[str, Float] | dict[str, int], kind: str) -> None:
    if name not in among:
        near = get_close_matches(name, among, n=1)
        raise UsageError(
            f"unknown {kind} {name!r}", f"did you mean {near[0]!r}?" if near else f"known: {', '.join(among)}"
        )


def scale_of(peak: Tensor, on: str | Float) -> Tensor:
    """The scale, float32, at which a largest absolute value is the largest of the format; 1 where it is zero."""
    scale = (peak.double() / floating(on).highest).float()
    return torch.where(peak > 0, scale.clamp_min(torch.finfo(torch.float32).tiny), 1.0)


def quantize(value: Tensor, scale: Tensor, on: str | Float) -> Tensor:
    """Codes of ``value / scale``, in the format's dtype; ``scale`` broadcasts.

    Raises:
        UsageError: a value is NaN, or a scale is not positive and finite.

    >>> quantize(torch.tensor([1.0, -1000.0]), torch.tensor(1.0), "e4m3").view(torch.uint8).tolist()
    [56, 254]
    """
    on = floating(on)
    if bool(value.isnan().any()):
        raise UsageError(f"values to store as {on.name} are NaN", "find where they come from: no scale can hold them")
    if not bool((scale.isfinite() & (scale > 0)).all()):
        raise UsageError(f"scales of {on.name} are not positive and finite", "take them from `scale_of`")
    near = _nearest(value.double() / scale.double(), on)
    return _e2m1(near) if on.dtype == torch.uint8 else near.float().to(on.dtype)


def dequantize(code: Tensor, scale: Tensor, on: str | Float) -> Tensor:
    """Real numbers of codes, as float32."""
    table = torch.tensor([*MAGNITUDES, *(-item for item in MAGNITUDES)], device=code.device)
    return (table[code.long()] if floating(on).dtype == torch.uint8 else code.float()) * scale


def rounded(value: Tensor, scale: Tensor, on: str | Float) -> Tensor:
    """What a value becomes when it is quantized and taken back, in its own dtype; errors as `quantize`."""
    return dequantize(quantize(value, scale, on), scale, on).to(value.dtype)


def _nearest(value: Tensor, on: Float) -> Tensor:
    """The nearest number of a format, float64."""
    # Casts of torch to float8 round float64 twice, and whether they saturate depends on the version.
    value = value.clamp(-on.highest, on.highest)
    fraction, _ = value.abs().frexp()
    power = torch.where(value == 0, 0.0, value.abs() / fraction)
    quantum = (power * 2.0 ** -(on.mantissa + 1)).clamp_min(2.0 ** (on.lowest - on.mantissa))
    return ((value / quantum).round() * quantum).clamp(-on.highest, on.highest)


def _e2m1(value: Tensor) -> Tensor:
    """Codes of numbers that E2M1 holds; the sign of a zero is kept."""
    table = torch.tensor(MAGNITUDES, dtype=torch.float64, device=value.device)
    return (torch.searchsorted(table, value.abs().contiguous()) + 8 * value.signbit()).to(torch.uint8)


def quantize_blocks(value: Tensor, name: str, *, whole: Tensor | None = None) -> Blocks:
    """A tensor in blocks along its last dimension.

    MXFP4 (OCP MX v1.0): the scale of 32 numbers is a power of two, ``floor(log2(largest)) - 2``, so that
    numbers above 6 / 8 of the next power saturate. NVFP4: the scale of 16 numbers is their largest over 6, as E4M3, in
    units of a scale of the whole tensor that makes the largest of those 448. A block of zeros has the code 127 (one) as
    MXFP4 scale, and zero as NVFP4 scale; so has an NVFP4 block that is too small beside the largest value.

    Args:
        value: [..., k] of any floating dtype.
        name: "mxfp4" or "nvfp4".
        whole: for nvfp4, the scale of the tensor [] where it is known from calibration; larger values saturate.

    Raises:
        UsageError: unknown format, values that are not finite, blocks that do not divide k, or a scale that is not
            positive.

    >>> made = quantize_blocks(torch.tensor([6.0, -1.0] * 16), "mxfp4")
    >>> made.code[:2].tolist(), made.scale.view(torch.uint8).tolist()
    ([7, 10], [127])
    """
    _known(name, BLOCKS, "block format")
    if not bool(value.isfinite().all()):
        raise UsageError(
            f"values to store as {name} are NaN or infinite", "a block of them has no scale: find their source"
        )
    parts = grouped(value.double(), BLOCKS[name])
    peaks = parts.abs().amax(-1)
    if name == "mxfp4":
        exponent = torch.where(peaks > 0, peaks.frexp()[1] - 3, 0).clamp(-127, 127)
        scale, whole = (exponent + 127).to(torch.uint8).view(torch.float8_e8m0fnu), torch.ones((), device=value.device)
    else:
        whole = _whole(peaks, whole)
        scale = _nearest(peaks / 6 / whole.double(), FLOATS["e4m3"]).float().to(torch.float8_e4m3fn)
    step = (scale.float().double() * whole.double())[..., None]
    code = _e2m1(_nearest(parts / torch.where(step > 0, step, torch.inf), FLOATS["e2m1"]))
    return Blocks(name, code.flatten(-2), scale, whole)


def _whole(peaks: Tensor, given: Tensor | None) -> Tensor:
    if given is None:
        largest = peaks.amax() if peaks.numel() else peaks.new_zeros(())
        return scale_of(largest / 6, "e4m3")
    if given.numel() != 1 or not bool(given.isfinite() & (given > 0)):
        raise UsageError(f"the scale of the tensor is {given.tolist()}", "give one positive number")
    return given.float().reshape(()).to(peaks.device)


def dequantize_blocks(blocks: Blocks) -> Tensor:
    """Real numbers, float32 [..., k]."""
    each = grouped(dequantize(blocks.code, torch.ones((), device=blocks.code.device), "e2m1"), BLOCKS[blocks.format])
    return (each * blocks.scale.float()[..., None] * blocks.whole).flatten(-2)


def rounded_blocks(value: Tensor, name: str, *, whole: Tensor | None = None) -> Tensor:
    """What a tensor becomes in blocks and back, in its own dtype; errors as `quantize_blocks`."""
    return dequantize_blocks(quantize_blocks(value, name, whole=whole)).to(value.dtype)
