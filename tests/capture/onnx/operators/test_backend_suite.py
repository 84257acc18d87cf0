"""The single-node cases of the ONNX backend suite, replayed by the arithmetic, neural and quantization families."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from typing import Any

import pytest

from tersor.capture.onnx.registry import find
from tests.capture.onnx import suite

FAMILIES = (
    "activation", "attention", "contrib", "convolution", "linear", "linear_attention", "logic",
    "loss", "math", "norm", "pool", "quantize", "reduce", "resize", "sampling", "signal",
)  # fmt: skip

NUMBERS_ONLY = ("BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix")
"""Operators without a tensor among their inputs: see test_signal.py."""

OPAQUE = {
    "test_training_dropout": "random",
    "test_training_dropout_default": "random",
    "test_training_dropout_default_mask": "random",
    "test_training_dropout_mask": "random",
    "test_resize_downsample_scales_linear_align_corners": "runtimes disagree on fractional sizes",
    "test_resize_downsample_scales_cubic_align_corners": "runtimes disagree on fractional sizes",
}
"""Cases that the operator functions must decline; ONNX Runtime runs them instead."""

REFUSED = {
    **dict.fromkeys(("test_equal_string", "test_equal_string_broadcast"), "strings"),
    **{
        f"test_{name}_{dtype}": "torch has no such type"
        for name in ("quantizelinear", "dequantizelinear")
        for dtype in ("uint4", "int4", "uint2", "int2", "float4e2m1")
    },
}
"""Cases whose inputs or outputs have a type that torch lacks."""

HALF = "expected values rounded after every step: torch rounds once, and is nearer to the exact result"
TOLERANCES = {
    **dict.fromkeys(
        (
            "test_attention_4d_causal_bf16", "test_attention_4d_padded_kv_bf16",
            "test_attention_4d_causal_padded_kv_bf16", "test_attention_4d_attn_mask_causal_bf16",
            "test_attention_3d_causal_bf16",
        ),
        (2e-2, 1e-3, HALF),
    ),
    **dict.fromkeys(("test_attention_4d_fp16", "test_attention_4d_causal_fp16"), (3e-3, 1e-4, HALF)),
    **dict.fromkeys(
        ("test_dft_inverse", "test_dft_inverse_opset19"), (1e-3, 1e-6, "zeros expected as rounding noise of 2e-7")
    ),
}  # fmt: skip
"""Cases with a wider tolerance than the suite's: relative, absolute, reason."""


@functools.cache
def cases() -> dict[str, list[Any]]:
    """Cases of one node whose operator belongs to these families, by operator."""
    found = defaultdict(list)
    for case in suite.cases().values():
        if case.kind != "node" or len(case.model.graph.node) != 1:
            continue
        (node,) = case.model.graph.node
        version = next(o.version for o in case.model.opset_import if o.domain == node.domain)
        entry = find(node.domain, node.op_type, version)
        if entry is None or node.op_type in NUMBERS_ONLY:
            continue
        if entry.function.__module__.rpartition(".")[2] in FAMILIES:
            found[node.op_type].append(case)
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "operator" in metafunc.fixturenames:
        metafunc.parametrize("operator", sorted(cases()))


def verdict(case: Any) -> str:
    rtol, atol, _ = TOLERANCES.get(case.name, (case.rtol, case.atol, ""))
    result = suite.case_result(dataclasses.replace(case, rtol=rtol, atol=atol), constants=True)
    return "opaque" if result.opaque else f"{result.status}: {result.detail}" if result.detail else result.status


def expected(name: str) -> str:
    return "opaque" if name in OPAQUE else "refused" if name in REFUSED else "equal"


def test_values_types_and_shapes_are_those_of_the_suite(operator: str) -> None:
    verdicts = {case.name: verdict(case) for case in cases()[operator]}
    wrong = {name: found for name, found in verdicts.items() if not found.startswith(expected(name))}
    assert not wrong


def test_every_exception_is_still_needed() -> None:
    names = {case.name for group in cases().values() for case in group}
    assert names >= OPAQUE.keys() | REFUSED.keys() | TOLERANCES.keys()
    assert len(names) > 900
