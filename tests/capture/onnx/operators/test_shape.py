"""The ONNX backend suite's cases of the families that move, index, cut, create and convert tensors."""

from __future__ import annotations

from typing import Any

import pytest

from tersor.capture.onnx.registry import find
from tests.capture.onnx import suite

FAMILIES = {"shape", "layout", "indexing", "create", "convert"}

TIES = "test_top_k_same_values"
"""Which of equal items comes first is not fixed in PyTorch; the exported TopK takes the lower index again."""

OPAQUE = (
    "test_cast_no_saturate_FLOAT_to_FLOAT8E4M3FN", "test_cast_no_saturate_FLOAT16_to_FLOAT8E4M3FN",
    "test_castlike_no_saturate_FLOAT_to_FLOAT8E4M3FN", "test_castlike_no_saturate_FLOAT16_to_FLOAT8E4M3FN",
    "test_top_k_uint64", "test_constantofshape", "test_range_",
)  # fmt: skip
"""Cases that are left to ONNX Runtime: no such conversion or kernel in PyTorch, or sizes known at run time only."""


def cases() -> list[Any]:
    found = []
    for case in suite.cases().values():
        if case.kind != "node" or len(case.model.graph.node) != 1:
            continue
        (node,) = case.model.graph.node
        version = next(o.version for o in case.model.opset_import if o.domain == node.domain)
        entry = find(node.domain, node.op_type, version)
        if entry is not None and entry.function.__module__.rpartition(".")[2] in FAMILIES:
            found.append(case)
    return found


def operators() -> list[str]:
    return sorted({case.model.graph.node[0].op_type for case in cases()})


@pytest.mark.parametrize("operator", operators())
def test_values_types_and_shapes_are_those_of_the_suite(operator: str) -> None:
    wrong = {}
    for case in cases():
        if case.model.graph.node[0].op_type != operator:
            continue
        result = suite.case_result(case, constants=True)
        if result.status == "refused" and "border of the model" in result.detail:
            continue
        if not result.ok and not case.name.startswith((*OPAQUE, TIES)):
            wrong[case.name] = (result.status, result.detail, result.opaque)
    assert not wrong


def test_the_suite_covers_these_families() -> None:
    assert len(cases()) > 300
    assert {"Gather", "Slice", "Pad", "ScatterND", "Reshape", "Range", "Cast"} <= set(operators())
