"""The least time that a kernel can take on a target, and the part of it that arithmetic and memory have in that."""

from __future__ import annotations

from dataclasses import dataclass

from tersor.cost.launches import Launch
from tersor.errors import UsageError
from tersor.target import Target

TENSOR_CORES = ("tf32", "float16", "float16+float16", "bfloat16", "float8", "float4", "int8", "int4")
_ALIGNMENT = 16
"""Bytes of which both matrix sizes must be multiples for tensor cores (NVIDIA, Deep Learning Performance Guide)."""
_BITS = {
    "tf32": 32,
    "float32": 32,
    "float16": 16,
    "float16+float16": 16,
    "bfloat16": 16,
    "float8": 8,
    "int8": 8,
    "int4": 4,
}
_CACHE_GAIN = 4.0
"""How many times faster than memory the last-level cache may be."""
_SPARSE_FROM = 256
"""Columns and contracted length from which sparse kernels are faster (NVIDIA/TensorRT issues 3849 and 4065)."""


@dataclass(frozen=True)
class Bound:
    """Seconds that arithmetic alone and memory traffic alone would take."""

    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        """The roofline (Williams, Waterman and Patterson, CACM 2009): both overlap perfectly."""
        return max(self.compute, self.memory)


def bound(launch: Launch, target: Target, resident: bool = False) -> Bound:
    """The roofline of one kernel; raises UsageError where the target's data sheet is not known.

    Activations that fill less than half of the last-level cache may still lie there when they are read; so may weights
    where all of a model's fit into it (``resident``).

    Depthwise convolutions run outside tensor cores; so do products whose sizes are no multiple of 16 bytes, which is
    not counted against them here, since libraries may pad.
    """
    if not target.rates or not target.bandwidth:
        raise UsageError(
            f"target {target.name!r} has no data sheet",
            "choose one that 'tersor targets' shows with rates, or measure it",
        )
    rate = target.rate("float32" if launch.kind == "depthwise" else launch.dtype, gains_from_zeros(launch, target))
    gain = target.cache_bandwidth / target.bandwidth if target.cache_bandwidth else _CACHE_GAIN
    moved = launch.moved / (gain if launch.moved < target.cache / 2 else 1.0)
    weights = launch.weights / (gain if resident else 1.0)
    return Bound(launch.flops / rate, (weights + moved) / target.bandwidth)


def aligned(launch: Launch) -> bool:
    """Whether a product's columns and contracted channels fill the words that tensor cores load.

    >>> aligned(Launch("linear", ("x",), "float16", m=4, n=64, k=100))
    False
    """
    multiple = max(1, 8 * _ALIGNMENT // _BITS.get(launch.dtype, 32))
    return launch.n % multiple == 0 and (launch.k // max(1, launch.window)) % multiple == 0


def on_tensor_cores(launch: Launch, target: Target) -> bool:
    """Whether tensor cores can run a product, by dtype and shape."""
    fast = launch.dtype in TENSOR_CORES and launch.dtype in target.rates and launch.kind != "depthwise"
    return _has_tensor_cores(target) and launch.k > 0 and fast and aligned(launch)


def _has_tensor_cores(target: Target) -> bool:
    """Those of NVIDIA begin with compute capability 7.0; what does not say its own is taken to have them."""
    generation = target.capability.partition(".")[0]
    return target.device == "cuda" and (not generation.isdecimal() or int(generation) >= 7)


def gains_from_zeros(launch: Launch, target: Target) -> bool:
    """Whether 2:4 zeros make a product faster: sparse kernels exist, and the layer is large enough for them."""
    large = launch.n >= _SPARSE_FROM and launch.k >= _SPARSE_FROM and launch.groups == 1
    return launch.sparse and launch.dtype in target.sparse and large
