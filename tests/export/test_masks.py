"""Boolean masks of attention as torch.onnx.export writes them: fewer passes over the scores, the same values."""

from __future__ import annotations

import math
from collections import Counter

import numpy
import onnx
import onnx_ir as ir
import pytest

from tersor.export.clean import clean
from tests.export.test_clean import same

CHOSEN = "a = Where(m, s, i)"
ADDED = "t = Where(m, z, i) a = Add(s, t)"
FINITE = -3.4028234663852886e38


def operators(masking: str, shape: tuple[int, ...], hidden: float = -math.inf, axis: int = -1) -> Counter[str]:
    """Of the cleaned model, after it gave what the original gives; in the last row of the mask nothing is seen."""
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[2, 3, 4, 5] s, bool[{", ".join(map(str, shape))}] m, float[2, 3, 5, 2] v) => (float[2, 3, 4, 2] y) {{
            z = Constant<value_float = 0.0>() i = Constant<value_float = 1.0>() {masking}
            w = Softmax<axis = {axis}>(a) n = IsNaN(w) g = Where(n, z, w) y = MatMul(g, v) }}"""
    proto = onnx.parser.parse_model(text)
    next(node for node in proto.graph.node if node.output[0] == "i").attribute[0].f = hidden
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    clean(model)
    made = ir.to_proto(model)
    onnx.checker.check_model(made, full_check=True)
    draws = numpy.random.RandomState(0)
    mask = draws.rand(*shape) < 0.6
    mask.reshape(-1, shape[-1])[-1] = False
    scores, values = draws.randn(2, 3, 4, 5).astype("f"), draws.randn(2, 3, 5, 2).astype("f")
    return Counter(same(proto, made, s=scores, m=mask, v=values))


@pytest.mark.parametrize("masking", [CHOSEN, ADDED])
@pytest.mark.parametrize("shape", [(2, 1, 1, 5), (1, 1, 4, 5), (4, 5)])
def test_what_is_hidden_is_decided_at_the_size_of_the_mask(masking: str, shape: tuple[int, ...]) -> None:
    found = operators(masking, shape)
    assert found["IsNaN"] == 0 and found["Where"] == 2 and found["Softmax"] == found["MatMul"] == 1


def test_finite_numbers_leave_no_row_without_weights() -> None:
    found = operators(ADDED, (2, 1, 1, 5), FINITE)
    assert found["IsNaN"] == 0 and found["Where"] == 1


@pytest.mark.parametrize(
    ("masking", "shape", "axis"),
    [(CHOSEN, (2, 3, 4, 5), -1), (CHOSEN, (2, 1, 1, 5), 2), ("a = Where(m, i, s)", (2, 1, 1, 5), -1)],
    ids=["as large as the scores", "another axis", "the other way round"],
)
def test_what_stays(masking: str, shape: tuple[int, ...], axis: int) -> None:
    assert operators(masking, shape, axis=axis)["IsNaN"] == 1
