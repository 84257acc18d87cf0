"""Devices: what a program is optimized for."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from difflib import get_close_matches

from tersor.errors import UsageError


@dataclass(frozen=True)
class Target:
    """A device.

    Attributes:
        name: as the user writes it.
        device: torch's device type, "cpu" or "cuda".
        threads: threads that a CPU backend may use.
        balance: floating-point operations that it does while it moves one byte (Williams et al., 2009).
        multiple: channels that its kernels work on at once; others are padded to it: the float32 lanes of a vector
            register on a CPU (oneDNN's and MLAS's blocked layouts), eight halves on tensor cores (NVIDIA, Deep Learning
            Performance Guide).
    """

    name: str
    device: str = "cpu"
    threads: int = 1
    balance: float = 8.0
    multiple: int = 16


def detect() -> Target:
    """The CPU of this machine with the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Target("cpu", "cpu", cores, multiple=lanes())


def lanes() -> int:
    """Float32 numbers in a vector register of this CPU."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return {"AVX512": 16, "AVX2": 8}.get(capability, 4)


def named(name: str | Target) -> Target:
    """The target of this name; raises UsageError with the nearest names."""
    if isinstance(name, Target):
        return name
    if name == "cpu":
        return detect()
    if name == "cuda":
        return Target("cuda", "cuda", balance=100.0, multiple=8)
    near = get_close_matches(name, ["cpu", "cuda"], n=1)
    hint = f"did you mean {near[0]!r}?" if near else "known targets: cpu, cuda"
    raise UsageError(f"unknown target {name!r}", hint)


def machine() -> str:
    """One line that says what machine this is, for reports."""
    cores = detect().threads
    return f"{_processor()}, {cores} cores, {platform.system()} {platform.machine()}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
    except OSError:
        return platform.processor() or "CPU"
