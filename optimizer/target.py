"""Devices: what a program is optimized for, and what their data sheets say."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tersor.errors import UsageError


@dataclass(frozen=True)
class Target:
    """A device and its data sheet. Zeros and empty tables mean "not known"; rates are of dense operations.

    Attributes:
        name: as the user writes it.
        device: torch's device type, "cpu" or "cuda".
        threads: threads that a CPU backend may use.
        balance: floating-point operations that it does while it moves one byte (Williams et al., 2009).
        multiple: channels that its kernels work on at once; others are padded to it: the float32 lanes of a vector
            register on a CPU (oneDNN's and MLAS's blocked layouts), eight halves on tensor cores (NVIDIA, Deep Learning
            Performance Guide).
        product: the vendor's name of it.
        capability: compute capability of a GPU, instruction set of a CPU.
        rates: peak operations per second by dtype ("float32", "tf32", "float16", "bfloat16", "float8", "int8", ...); a
            multiply-add is two. "float16" accumulates in float32; "float16+float16" accumulates in float16.
        sparse: the same where half of the weights are zero in the 2:4 pattern.
        bandwidth: bytes per second from and to memory.
        cache: bytes of the last-level cache.
        cache_bandwidth: bytes per second from and to it, or to a smaller cache; 0 takes a multiple of ``bandwidth``.
        memory: bytes of memory.
        memory_type: its technology, with "ECC" where error correction takes a part of the bandwidth.
        power: watts that the board may draw.
        units: streaming multiprocessors of a GPU, cores of a CPU.
        clock: highest cycles per second.
        launch: seconds between the starts of two empty kernels on one stream; an estimate, no vendor states it.
        source: where the figures come from.
        corrections: what single operators took here, fitted, by backend, see `tersor.cost.correction`.
    """

    name: str
    device: str = "cpu"
    threads: int = 1
    balance: float = 8.0
    multiple: int = 16
    product: str = ""
    capability: str = ""
    rates: Mapping[str, float] = field(default_factory=dict, hash=False)
    sparse: Mapping[str, float] = field(default_factory=dict, hash=False)
    bandwidth: float = 0.0
    cache: float = 0.0
    memory: float = 0.0
    memory_type: str = ""
    power: float = 0.0
    units: int = 1
    clock: float = 0.0
    launch: float = 0.0
    source: str = ""
    cache_bandwidth: float = 0.0
    corrections: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)

    def rate(self, dtype: str, sparse: bool = False) -> float:
        """Peak operations per second; those of float32 where the dtype has no fast path."""
        table = self.sparse if sparse and dtype in self.sparse else self.rates
        return table.get(dtype) or self.rates.get("float32", 0.0)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that it computes in at a stated rate."""
        return tuple(name for name in self.rates if name != "float16+float16")


def detect() -> Target:
    """The CPU of this machine with the cores that this process may use, as measured where a profile was saved."""
    from tersor.targets.profile import measured

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return measured(Target("cpu", "cpu", cores, multiple=lanes(), units=cores))


def lanes() -> int:
    """Float32 numbers in a vector register of this CPU."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return {"AVX512": 16, "AVX2": 8}.get(capability, 4)


def known() -> dict[str, Target]:
    """Every target by name: this CPU, any CUDA device, and the devices whose data sheets are in the package."""
    from tersor.targets.sheets import sheets

    return {"cpu": detect(), "cuda": Target("cuda", "cuda", balance=100.0, multiple=8), **sheets()}


def named(name: str | Target) -> Target:
    """The target of this name, or of this data sheet as a JSON file; raises UsageError with the nearest names."""
    if isinstance(name, Target):
        return name
    if name == "cpu":
        return detect()
    if name.endswith(".json"):
        from tersor.targets.sheets import from_file

        return from_file(Path(name))
    targets = known()
    plain = name.lower().replace(" ", "-").replace("_", "-")
    if plain in targets:
        return targets[plain]
    near = get_close_matches(plain, targets, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known targets: {', '.join(targets)}"
    raise UsageError(f"unknown target {name!r}", hint)


def machine() -> str:
    """One line that says what machine this is, for reports."""
    cores = detect().threads
    return f"{processor()}, {cores} cores, {platform.system()} {platform.machine()}"


def processor() -> str:
    """The vendor's name of this machine's CPU."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
    except OSError:
        return platform.processor() or "CPU"
