"""`QuantizeCache`: keys and values that a cache holds are rounded as if it held them in few bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tersor.context import Context
from tersor.program import Program
from tersor.quant.cache import BITS
from tersor.quant.caches import Cache, caches, codecs, put_rounding, too_few_bits


@dataclass(frozen=True)
class QuantizeCache:
    """Round keys by channel and values by token where caches of decoders hold them (KIVI, arXiv:2402.02750).

    A cache is an input that new tokens are put behind, that goes out again, and that attention reads. Inputs and
    outputs stay what they are: this shows, under the budget, what a cache of bytes costs in quality, and saves nothing
    by itself. `tersor.quant.caches.store` gives the program whose caches are bytes.

    Attributes:
        bits: 8 or 4 for each number; 4 take an even number of channels.
    """

    bits: int = 8
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits is {self.bits}; wanted one of {BITS}")

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        found = []
        for node, item in caches(program):
            reason = item if isinstance(item, str) else too_few_bits(item, self.bits)
            if isinstance(item, Cache) and not reason:
                found.append(item)
            else:
                context.skip(node, reason)
        made = codecs(program, found, self.bits, context.calibration or (program.inputs,))
        for cache in found:
            codec = made[cache.joined.name]
            how = "by channel" if codec.kind == "keys" else "by token"
            share = codec.stored_width / (codec.width * cache.item_bytes)
            told = f"{codec.kind} in {self.bits} bits {how}: {share:.0%} of the bytes once it is stored"
            if context.take(cache.past, told):
                put_rounding(program, cache, codec)
        program.changed()
