"""Sums at points that coincide: every addition counts, whatever a runtime's threads do."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from tersor.capture.torch import capture_module
from tersor.export.clean import clean
from tests.export.models import Apply, captured, exported, operators
from tests.export.test_clean import same


def test_no_addition_is_lost() -> None:
    """ONNX Runtime's ScatterND loses some here in one call of three with two threads."""

    def function(x: torch.Tensor) -> torch.Tensor:
        place = (torch.arange(1024) + x[:, 0].argmin()).remainder(512)
        return torch.zeros(512, 256).index_put([place], torch.ones_like(x), accumulate=True)

    model = exported(capture_module(Apply(function).eval(), (torch.randn(1024, 256),)))
    assert operators(model)["ScatterElements"] == 1
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    x = numpy.zeros((1024, 256), dtype=numpy.float32)
    for _ in range(50):
        assert (session.run(None, {session.get_inputs()[0].name: x})[0] == 2).all()


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
@pytest.mark.parametrize(
    ("data", "points", "updates"),
    [
        ((6,), (4, 1), (4,)),
        ((6, 3), (4, 1), (4, 3)),
        ((6, 3), (4, 2), (4,)),
        ((2, 6, 3), (2, 2, 2), (2, 2, 3)),
        ((6, 2, 3), (2, 2, 1), (2, 2, 2, 3)),
        ((3, 2, 2, 3), (5, 3), (5, 3)),
    ],
)
@pytest.mark.parametrize("fixed", [True, False])
def test_what_is_scattered(
    reduction: str, data: tuple[int, ...], points: tuple[int, ...], updates: tuple[int, ...], fixed: bool
) -> None:
    sizes = ", ".join(str(size) if fixed else f"n{place}" for place, size in enumerate(data))
    others = ", ".join(str(size) if fixed else f"m{place}" for place, size in enumerate(points[:-1]))
    inner = ", ".join(sizes.split(", ")[points[-1] :])
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[{sizes}] d, int64[{others}, {points[-1]}] p, float[{", ".join(filter(None, (others, inner)))}] u)
        => (float[{sizes}] y) {{ y = ScatterND<reduction = "{reduction}">(d, p, u) }}"""
    proto = onnx.parser.parse_model(text)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    clean(model)
    made = ir.to_proto(model)
    onnx.checker.check_model(made, full_check=True)
    draws = numpy.random.RandomState(0)
    lead = data[: points[-1]]
    index = numpy.stack([draws.randint(-size, size, points[:-1]) for size in lead], -1)
    index[(1,) * (len(points) - 1)] = index[(0,) * (len(points) - 1)]
    values = {"d": draws.randn(*data).astype("f"), "p": index, "u": draws.randn(*updates).astype("f")}
    found = same(proto, made, **values)
    assert "ScatterND" not in found and found.count("ScatterElements") == 1


@pytest.mark.parametrize(
    ("points", "kept"), [([[0], [2], [1]], True), ([[0], [2], [0]], False), ([[0], [2], [-4]], False)]
)
def test_points_known_to_differ_stay(points: list[list[int]], kept: bool) -> None:
    index = torch.tensor(points)[:, 0]

    def function(x: torch.Tensor) -> torch.Tensor:
        return x.index_put([index], x[1:], accumulate=True)

    counted = operators(exported(capture_module(Apply(function).eval(), (torch.randn(4, 3),))))
    assert counted["ScatterND"] == int(kept) and counted["ScatterElements"] == int(not kept)


index_put = torch.ops.aten.index_put


@pytest.mark.parametrize(
    "function",
    [
        lambda x, i: x.index_put([i], x[:1], accumulate=True),
        lambda x, i: index_put(x, [None, i], x[:, :1], True),
        lambda x, i: x.index_put([i[:, None], i.flip(0)], x[:1, :1], accumulate=True),
        lambda x, i: index_put(x, [i, None, i.flip(0)], x[:1, :, 0], True),
        lambda x, i: x.index_put([x[:, 0, 0] * 0 == i.sum() * 0], torch.ones(()), accumulate=True),
        lambda x, i: x.index_add(1, i % 3, x[:, :2]),
    ],
    ids=["rows", "columns", "broadcast", "apart", "mask", "index_add"],
)
def test_sums_from_pytorch(function: Callable[..., torch.Tensor]) -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return function(x, (x[:2, 0, 0] * 0).long() + torch.tensor([1, -2]))

    counted = operators(exported(captured(model, 3, 3, 4)))
    assert counted["ScatterElements"] == 1 and not counted["ScatterND"]
