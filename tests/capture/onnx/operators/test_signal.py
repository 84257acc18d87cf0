"""Window functions and the mel matrix against the expected values of the ONNX backend suite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper

from tersor.capture.onnx.registry import Node, find
from tersor.capture.onnx.values import host
from tests.capture.onnx import suite

CASES = (
    "test_hannwindow",
    "test_hannwindow_symmetric",
    "test_hammingwindow",
    "test_hammingwindow_symmetric",
    "test_blackmanwindow",
    "test_blackmanwindow_symmetric",
    "test_melweightmatrix",
)


@pytest.mark.parametrize("name", CASES)
def test_matrices_of_numbers(name: str) -> None:
    case = suite.cases()[name]
    (proto,) = case.model.graph.node
    attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
    node = Node(proto.op_type, "", case.model.opset_import[0].version, "", (), ("y",), attributes)
    ((inputs, (expected,)),) = case.data_sets
    entry = find("", proto.op_type, node.version)
    assert entry is not None
    result = entry.function(node, *(host(np.asarray(i).tolist()) for i in inputs))
    assert isinstance(result, torch.Tensor)
    np.testing.assert_allclose(result.numpy(), expected, rtol=case.rtol, atol=1e-6)
    assert result.dtype == torch.float32
    assert result.shape == expected.shape
