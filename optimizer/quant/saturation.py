"""Whether a CPU's eight-bit products overflow: without VNNI, pairs of them are summed in sixteen bits."""

from __future__ import annotations

import platform
from pathlib import Path

from tersor.target import Target

SAFE = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
"""Flags of CPUs that sum products of unsigned and signed bytes in 32 bits in one instruction (Intel 64 and IA-32
Architectures Software Developer's Manual, VPDPBUSD and TDPBUSD). Others use VPMADDUBSW, which sums pairs in 16 bits
and clips: 2 x 255 x 127 is twice what fits, 2 x 255 x 63 does."""


def saturates(target: Target, flags: frozenset[str] | None = None, machine: str = "") -> str:
    """Why eight-bit weights may overflow on a target, in words; empty where they cannot.

    Args:
        target: a GPU sums in 32 bits; a CPU is taken to be this machine's.
        flags, machine: instruction-set flags and architecture; by default this machine's. Flags that cannot be read
            count as missing: seven bits are always safe.

    >>> saturates(Target("cuda", "cuda"))
    ''
    >>> saturates(Target("cpu"), frozenset({"avx2", "avx_vnni"}), "x86_64")
    ''
    >>> saturates(Target("cpu"), frozenset({"avx2"}), "x86_64")
    'this CPU has no VNNI, and without it sums of products of bytes overflow'
    """
    architecture = (machine or platform.machine()).lower()
    if target.device != "cpu" or architecture not in ("x86_64", "amd64", "i386", "i686", "x86"):
        return ""
    known = cpu_flags() if flags is None else flags
    if known & SAFE:
        return ""
    if not known:
        return "whether this CPU has VNNI cannot be read here, and without it sums of products of bytes overflow"
    return "this CPU has no VNNI, and without it sums of products of bytes overflow"


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction-set flags of this machine; empty where the system does not tell."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))
