"""The description of variants that goes to Triton's compiler, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from tersor.errors import BackendError
from tersor.kernels.ahead_of_time import Code, _described, build


def test_operands_become_a_signature() -> None:
    signature, known, facts = _described(
        ["x", "scale", "rows", "inputs", "BLOCK"], (torch.bfloat16, None, 1, 4096), {"BLOCK": 16}, True
    )
    assert signature == {"x": "*bf16", "scale": "constexpr", "rows": "i32", "inputs": "i32", "BLOCK": "constexpr"}
    assert known == {"BLOCK": 16, "scale": None}
    assert facts == {(0,): [["tt.divisibility", 16]], (3,): [["tt.divisibility", 16]]}
    assert _described(["x"], (torch.int8,), {}, False)[2] == {}


def test_what_is_no_compiled_kernel_is_refused() -> None:
    pytest.importorskip("triton", reason="Triton is not installed: it has wheels for Linux only")
    with pytest.raises(BackendError, match="unset TRITON_INTERPRET"):
        build(lambda x: None, (), {}, 80)


def test_counts() -> None:
    code = Code(80, 32, 0, 0, 4, {"LDG": 3, "STL": 1, "LDL": 2, "NOP": 5}, "")
    assert code.count("LDG", "LDS") == 3 and code.spills == 3 and code.total == 6
