"""Where the project's kernels take the place of PyTorch's: where they were measured to pay, or save bytes enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tersor.cost.roofline import Work
from tersor.target import Target

LEAST = 1.1
"""How many times faster a kernel must be, as far as it is known, to be used."""


@dataclass(frozen=True)
class Entry:
    """What is known of a kernel before it is measured.

    Attributes:
        rival: what runs where it is not used.
        reach: the share of its roofline that it is assumed to reach, while its rival is assumed to reach all of its
            own; 0 where both move the same bytes, so that only a measurement can tell.
    """

    rival: str
    reach: float = 0.0


TABLE = {
    "attention": Entry("scaled_dot_product_attention"),
    "norm": Entry("Inductor's fused norm"),
    "glu": Entry("Inductor's fused product"),
    "scaled_matmul": Entry("the product in floating point", 0.6),
    "int4_matmul": Entry("the product with dequantized weights", 0.6),
    "sparse_24_matmul": Entry("the dense product", 0.6),
}
"""By kernel. The shares are assumptions: no GPU was there when they were written."""

MEASURED: dict[tuple[str, int], float] = {}
"""By kernel and compute capability, how many times faster than its best rival it was; `benchmarks/gpu.py` prints it."""


@dataclass(frozen=True)
class Gate:
    """Decides for one target.

    Attributes:
        target: the device.
        anyway: use every kernel that fits, to measure what it costs.
    """

    target: Target
    anyway: bool = False

    @property
    def capability(self) -> int:
        """As a number, 90 for 9.0; 0 where it is not known."""
        major, _, minor = self.target.capability.partition(".")
        return 10 * int(major) + int(minor or 0) if major.isdecimal() else 0

    def objection(self, kernel: str, ours: Work, rival: Work, rates: tuple[str, str]) -> str:
        """Why a kernel is not used; empty where it is.

        Args:
            kernel: its name.
            ours, rival: what it and its rival have to do.
            rates: the dtypes that they compute in, as data sheets name them.

        >>> from tersor.target import named
        >>> few, many = Work(2e6, 1e6), Work(2e6, 4e6)
        >>> Gate(named("h100")).objection("int4_matmul", few, many, ("float16", "float16"))
        ''
        >>> Gate(named("h100")).objection("norm", few, few, ("float16", "float16"))
        "norm is not measured on compute capability 9.0; Inductor's fused norm stays"
        """
        if self.anyway:
            return ""
        entry, where = TABLE[kernel], f"compute capability {self.target.capability or 'unknown'}"
        measured = MEASURED.get((kernel, self.capability))
        if measured is not None:
            told = f"{kernel} was measured at {measured:.2f} of {entry.rival} on {where}"
            return "" if measured >= LEAST else told
        if not entry.reach:
            return f"{kernel} is not measured on {where}; {entry.rival} stays"
        if not self.target.bandwidth or not self.target.rates:
            return f"target {self.target.name} has no data sheet to predict a gain of {kernel} from; name a device"
        times = [
            work.seconds(self.target.rate(name), self.target.bandwidth)
            for work, name in zip((ours, rival), rates, strict=True)
        ]
        gain = times[1] * entry.reach / times[0]
        return "" if gain >= LEAST else f"{kernel} is predicted at {gain:.2f} of the speed of {entry.rival}"


def rate_name(dtype: torch.dtype) -> str:
    """A dtype as data sheets name it.

    >>> rate_name(torch.float8_e4m3fn)
    'float8'
    """
    text = str(dtype).removeprefix("torch.")
    return "float8" if text.startswith("float8") else text


def hint(size: Any) -> int:
    """A size as a number, that of the example inputs where it differs from call to call.

    >>> hint(3)
    3
    """
    if isinstance(size, torch.SymInt):
        return int(size.node.hint) if size.node.has_hint() else 1
    return int(size)
