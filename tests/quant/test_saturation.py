"""Which CPUs overflow, and that seven bits do not where eight do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tersor.quant.grid import grid
from tersor.quant.saturation import cpu_flags, saturates
from tersor.target import Target

CPU = Target("cpu")


@pytest.mark.parametrize("flag", ["avx512_vnni", "avx_vnni", "amx_int8"])
def test_cpus_that_sum_in_32_bits_take_eight(flag: str) -> None:
    assert saturates(CPU, frozenset({"avx2", "avx512f", flag}), "x86_64") == ""


def test_others_and_unknown_ones_do_not() -> None:
    assert "no VNNI" in saturates(CPU, frozenset({"avx2", "avx512f"}), "AMD64")
    assert "cannot be read" in saturates(CPU, frozenset(), "x86_64")


def test_arm_and_gpus_have_no_such_instruction() -> None:
    assert saturates(CPU, frozenset(), "aarch64") == ""
    assert saturates(Target("h100", "cuda"), frozenset(), "x86_64") == ""


def test_pairs_of_products_fit_sixteen_bits_with_seven_only() -> None:
    def largest(name: str) -> int:
        return 2 * 255 * max(-grid(name).lowest, grid(name).highest)

    assert largest("int7") <= 2**15 < largest("int8")


def test_flags_come_from_the_file_and_its_absence_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx_vnni\nprocessor\t: 1\nflags\t\t: fpu\n", encoding="utf-8")
    assert cpu_flags(path) == {"fpu", "avx2", "avx_vnni"}
    assert cpu_flags(tmp_path / "none") == frozenset()
