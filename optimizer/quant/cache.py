"""Keys and values of attention in few bits, as caches hold them: each cache is one tensor of bytes.

Keys have channels that are large for every token, so each channel has a range of its own, found beforehand (KIVI, Liu
et al., arXiv:2402.02750, section 3.2; found on calibration data as in KVQuant, Hooper et al., arXiv:2401.18079). Values
have no such channels; each token has a scale of its own, which two more bytes in its row hold. Rounding a second time
changes nothing.

Every function is written in terms of ``do``, which is called with an ATen operator and its arguments: plain tensors by
default, nodes of a graph where that inserts calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tersor.errors import UsageError

aten = torch.ops.aten
Do = Callable[..., Any]

BITS = (8, 4)
"""Bits of a level; of four bits, two share a byte: one from each half of the channels."""

MARGIN = 1.1
"""Keys to come may be larger than all that calibration showed; ranges are widened by this."""

SMALLEST = 2.0**-100
"""Tokens whose values are all smaller count as zero."""


def directly(target: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute at once."""
    return target(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class Codec:
    """How one cache is stored.

    Attributes:
        kind: "keys" have a range for each channel, "values" a scale for each token.
        bits: 8 or 4.
        width: channels, the last dimension.
        scale, zero: of keys, float32, broadcasting against them; None for values.

    >>> Codec("values", 8, 64).stored_width, Codec("values", 4, 64).stored_width
    (66, 34)
    """

    kind: Literal["keys", "values"]
    bits: int
    width: int
    scale: Tensor | None = None
    zero: Tensor | None = None

    @property
    def stored_width(self) -> int:
        """Bytes for each token."""
        return self.width * self.bits // 8 + (2 if self.kind == "values" else 0)

    def encode(self, value: Tensor) -> Tensor:
        """Real numbers ``[..., width]`` as bytes ``[..., stored_width]``."""
        made: Tensor = encode(self, value, self.scale, self.zero)
        return made

    def decode(self, stored: Tensor) -> Tensor:
        """Bytes as float32."""
        made: Tensor = decode(self, stored, self.scale, self.zero)
        return made


def for_keys(low: Tensor, high: Tensor, bits: int) -> Codec:
    """Keys whose channels lie between ``low`` and ``high``, both of a shape that broadcasts, as [heads, 1, width]."""
    width = low.shape[-1]
    check(width, bits)
    low, high = low.double().clamp(max=0) * MARGIN, high.double().clamp(min=0) * MARGIN
    scale = (high - low) / (2**bits - 1)
    scale = scale.where(scale > torch.finfo(torch.float32).tiny, 1.0).float()
    return Codec("keys", bits, width, scale, (-low / scale).round().float())


def for_values(width: int, bits: int) -> Codec:
    """Values; nothing needs to be known of them."""
    check(width, bits)
    return Codec("values", bits, width)


def check(width: int, bits: int) -> None:
    """Raises UsageError where this many channels cannot be stored in so many bits."""
    if bits not in BITS:
        raise UsageError(f"{bits} bits", f"wanted one of {BITS}")
    if bits == 4 and width % 2:
        raise UsageError(f"{width} channels in four bits", "an even number, since two share a byte")


def encode(codec: Codec, value: Any, scale: Any = None, zero: Any = None, do: Do = directly) -> Any:
    """`Codec.encode`; the parameters of keys are given apart, since in a graph they are nodes."""
    if codec.kind == "keys":
        level = do(aten.add.Tensor, do(aten.round.default, do(aten.div.Tensor, value, scale)), zero)
        level = do(aten.clamp.default, level, 0.0, 2.0**codec.bits - 1)
        return _bytes(_packed(codec, level, do), do)
    largest = _limit(codec)
    exponent, mantissa, step = _scale_of(codec, value, do)
    level = do(aten.clamp.default, do(aten.round.default, do(aten.div.Tensor, value, step)), -largest, largest)
    level = _packed(codec, do(aten.add.Tensor, level, largest + 1), do)
    return _bytes(do(aten.cat.default, [level, do(aten.add.Tensor, exponent, 128.0), mantissa], -1), do)


def decode(codec: Codec, stored: Any, scale: Any = None, zero: Any = None, do: Do = directly) -> Any:
    """`Codec.decode`, likewise."""
    number = do(aten._to_copy.default, stored, dtype=torch.float32)
    packed = codec.width * codec.bits // 8
    if codec.kind == "keys":
        return do(aten.mul.Tensor, do(aten.sub.Tensor, _unpacked(codec, number, do), zero), scale)
    level = _unpacked(codec, do(aten.slice.Tensor, number, -1, 0, packed), do)
    exponent = do(aten.sub.Tensor, do(aten.slice.Tensor, number, -1, packed, packed + 1), 128.0)
    mantissa = do(aten.slice.Tensor, number, -1, packed + 1, packed + 2)
    return do(aten.mul.Tensor, do(aten.sub.Tensor, level, _limit(codec) + 1), _step(codec, exponent, mantissa, do))


def _limit(codec: Codec) -> float:
    return 2.0 ** (codec.bits - 1) - 1


def _scale_of(codec: Codec, value: Any, do: Do) -> tuple[Any, Any, Any]:
    """Exponent, mantissa of 128 to 255 and step of each token.

    The mantissa is the nearest, so that the largest value of a token, which may be clipped by a 250th, always has the
    last level: rounding it once more finds the same scale.
    """
    largest = do(aten.clamp.default, do(aten.amax.default, do(aten.abs.default, value), [-1], True), SMALLEST, 2.0**100)
    exponent = do(aten.ceil.default, do(aten.log2.default, largest))
    share = do(aten.div.Tensor, largest, do(aten.pow.Scalar, 2.0, exponent))
    mantissa = do(aten.round.default, do(aten.mul.Tensor, share, 255.0))
    return exponent, mantissa, _step(codec, exponent, mantissa, do)


def _step(codec: Codec, exponent: Any, mantissa: Any, do: Do) -> Any:
    power = do(aten.pow.Scalar, 2.0, exponent)
    return do(aten.mul.Tensor, do(aten.mul.Tensor, mantissa, 1 / (255 * _limit(codec))), power)


def _packed(codec: Codec, level: Any, do: Do) -> Any:
    """Of four bits, the second half of the channels above the first."""
    if codec.bits == 8:
        return level
    half = codec.width // 2
    low, high = (do(aten.slice.Tensor, level, -1, start, start + half) for start in (0, half))
    return do(aten.add.Tensor, low, do(aten.mul.Tensor, high, 16.0))


def _unpacked(codec: Codec, number: Any, do: Do) -> Any:
    if codec.bits == 8:
        return number
    high = do(aten.floor.default, do(aten.mul.Tensor, number, 1 / 16))
    low = do(aten.sub.Tensor, number, do(aten.mul.Tensor, high, 16.0))
    return do(aten.cat.default, [low, high], -1)


def _bytes(level: Any, do: Do) -> Any:
    return do(aten._to_copy.default, level, dtype=torch.uint8)
