"""What TensorRT would reject or run slowly, each planted and found, with its fix; and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import nn

from tersor.backends._tensorrt_findings import gathered
from tersor.backends._tensorrt_form import for_tensorrt, to_tensorrt_model
from tersor.backends._tensorrt_lint import lint, lint_model
from tersor.backends._tensorrt_lint_speed import capability
from tersor.backends._tensorrt_operators import OPERATORS, REMEDIES, SINCE
from tersor.backends._tensorrt_options import LATEST, Options
from tersor.backends._tensorrt_profiles import profiles, unbounded
from tersor.capture.torch import capture_module
from tersor.context import Context
from tersor.errors import UsageError
from tersor.export.runtime import Session
from tersor.export.write import check_model
from tersor.passes.cast import Cast
from tersor.passes.quantize import Quantize
from tersor.passes.quantize_weights import QuantizeWeights
from tersor.pipeline import run
from tersor.program import Program
from tersor.refresh import refresh
from tersor.target import Target, named

H100, T4 = named("h100"), named("t4")
FLOAT, INT8 = TensorProto.FLOAT, TensorProto.INT8


def model_of(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, numpy.ndarray] | None = None,
    *,
    shape: Sequence[Any] = (2, 16, 8, 8),
    dtype: int = FLOAT,
    opset: int = 21,
) -> ir.Model:
    outputs = [helper.make_empty_tensor_value_info(nodes[-1].output[0])]
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", dtype, list(shape))], outputs, initializers
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("own", 1)])
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def found(model: ir.Model, target: Target = H100, version: tuple[int, int] = LATEST, **options: Any) -> list[Any]:
    return gathered(lint_model(model, target, Options(**options), version))


def node(operator: str, inputs: Sequence[str] = ("x",), output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), [output], name=f"the_{operator}", **attributes)


PLANTED: dict[str, tuple[Callable[[], ir.Model], str, str]] = {
    "operator": (lambda: model_of([node("Unique", sorted=1)]), "does not import Unique", "behind the model"),
    "domain": (lambda: model_of([node("Odd", domain="own")]), "Odd of own is no operator", "plugin"),
    "dynamic quantization": (
        lambda: model_of([helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])]),
        "does not import", "scales from calibration",
    ),
    "resize": (
        lambda: model_of([node("Resize", ("x", "", "s"), antialias=1, mode="linear")], {"s": numpy.ones(4, "float32")}),
        "antialiasing", "blur",
    ),
    "coordinates": (
        lambda: model_of(
            [node("Resize", ("x", "", "s"), coordinate_transformation_mode="half_pixel_symmetric")],
            {"s": numpy.ones(4, "float32")},
        ),
        "coordinates half_pixel_symmetric", "use one of",
    ),
    "pooling": (lambda: model_of([node("MaxPool", kernel_shape=[2, 2], dilations=[2, 2])]), "dilations", "slices"),
    "grid": (
        lambda: model_of([node("GridSample", ("x", "grid"))], {"grid": numpy.zeros((2, 4, 4, 4, 3), "float32")},
                 shape=(2, 1, 4, 4, 4)),
        "reads 5 axes", "fold",
    ),
    "top k": (
        lambda: model_of([helper.make_node("TopK", ["x", "k"], ["y", "i"], name="k")], {"k": numpy.array([4000])},
                 shape=(2, 9000)),
        "keeps 4000", "fewer",
    ),
    "scatter": (
        lambda: model_of([node("ScatterND", ("x", "i", "u"), reduction="add")],
                 {"i": numpy.zeros((1, 1), "int64"), "u": numpy.zeros((1, 3), "float32")}, shape=(4, 3)),
        "reduction add", "one-hot",
    ),
    "type": (lambda: model_of([node("Sqrt", ("x",))], dtype=TensorProto.FLOAT), "", ""),
    "integers": (
        lambda: model_of([node("Cast", output="i", to=TensorProto.INT64), node("Erf", ("i",))]),
        "Erf reads int64; TensorRT computes it on floating point", "cast its input",
    ),
    "bytes": (
        lambda: model_of([node("Cast", output="b", to=TensorProto.UINT8), node("Reshape", ("b", "s"))],
                 {"s": numpy.array([-1])}),
        "reads uint8", "cast it",
    ),
    "port": (lambda: model_of([node("Cast", to=FLOAT)], dtype=TensorProto.INT16), "int16 cannot pass", "outside"),
    "rank": (
        lambda: model_of([node("Reshape", ("x", "s"))], {"s": numpy.array([2] * 9)}, shape=(512,)),
        "9 axes", "fold axes",
    ),
    "recurrent": (
        lambda: model_of([helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="l", hidden_size=4, layout=1)],
                 {"w": numpy.zeros((1, 16, 8), "float32"), "r": numpy.zeros((1, 16, 4), "float32")}, shape=(2, 3, 8)),
        "layout=1", "default",
    ),
    "opset": (lambda: model_of([node("Relu")], opset=8), "opset 8 is outside", "23"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_rejected(name: str) -> None:
    make, problem, remedy = PLANTED[name]
    fatal = [finding for finding in found(make()) if finding.fatal]
    if not problem:
        assert not fatal
        return
    assert any(problem in finding.problem and remedy in finding.remedy for finding in fatal), fatal
    assert len(fatal) == 1 + (name == "port"), fatal  # what reads the input is named as well


def test_attention_by_version_and_form() -> None:
    class Attend(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(x, x, x, mask)

    inputs = torch.randn(2, 4, 6, 8), torch.randn(6, 6)
    program = capture_module(Attend().eval(), inputs)
    whole, apart = to_tensorrt_model(program), to_tensorrt_model(program, (10, 9))
    assert [item.op_type for item in whole.graph] == ["Unsqueeze", "Attention"]  # the mask has four axes
    assert whole.graph.opset_imports[""] == 23 and apart.graph.opset_imports[""] < 23
    assert "Softmax" in [item.op_type for item in apart.graph]
    for model in (whole, apart):
        check_model(model)
        torch.testing.assert_close(Session(model, 1).run(inputs), program.run(inputs), rtol=1e-4, atol=1e-5)
    assert "from TensorRT 10.14 on" in found(whole, version=(10, 9))[0].problem
    assert not [finding for finding in found(whole) if finding.fatal]


def quantized_model(
    zero: int = 0,
    dtype: str = "int8",
    scale: Any = 0.1,
    reader: str = "Conv",
    bias: bool = False,
    data: bool = True,
    weight: bool = True,
) -> ir.Model:
    """A convolution of 32 channels, quantized as the arguments say."""
    values: dict[str, numpy.ndarray] = {
        "s": numpy.array(scale, "float32"), "z": numpy.full(numpy.shape(scale), zero, dtype),
        "ws": numpy.full(32, 0.1, "float32"), "level": numpy.ones((32, 16, 1, 1), "int8"),
        "w": numpy.ones((32, 16, 1, 1), "float32"), "b": numpy.ones(32, "int32"), "bs": numpy.full(32, 0.1, "float32"),
    }  # fmt: skip
    nodes = []
    if data:
        nodes += [node("QuantizeLinear", ("x", "s", "z"), "q", axis=1)]
        nodes += [node("DequantizeLinear", ("q", "s", "z"), "d", axis=1)]
    if weight:
        nodes += [node("DequantizeLinear", ("level", "ws"), "v", axis=0)]
    if bias:
        nodes += [node("DequantizeLinear", ("b", "bs"), "c", axis=0)]
    reads = [("d" if data else "x"), ("v" if weight else "w"), *(["c"] if bias else [])]
    nodes += [node("Conv", reads) if reader == "Conv" else node(reader, reads[:1])]
    return model_of(nodes, values)


@pytest.mark.parametrize(
    ("planted", "problem"),
    [
        ({"zero": 3}, "zero point"),
        ({"dtype": "uint8"}, "levels are uint8"),
        ({"scale": 0.0}, "not positive"),
        ({"scale": [0.1] * 16}, "scale per channel"),
        ({"bias": True}, "32-bit integers"),
    ],
)
def test_quantization_that_is_rejected(planted: dict[str, Any], problem: str) -> None:
    fatal = [finding for finding in found(quantized_model(**planted)) if finding.fatal]
    assert len(fatal) == 1 and problem in fatal[0].problem
    assert "quantize{backend=tensorrt}" in fatal[0].remedy or "calibrate" in fatal[0].remedy


@pytest.mark.parametrize(
    ("planted", "problem"),
    [
        ({"data": False}, "floating point is multiplied"),
        ({"weight": False}, "weights are not"),
        ({"reader": "Softmax", "weight": False}, "taken back for Softmax"),
    ],
)
def test_quantization_that_gains_nothing(planted: dict[str, Any], problem: str) -> None:
    findings = found(quantized_model(**planted))
    assert any(problem in finding.problem and not finding.fatal for finding in findings), findings


def test_a_residual_in_floating_point() -> None:
    model = quantized_model()
    graph = ir.to_proto(model)
    graph.graph.node.extend([node("Concat", ("x", "x"), "twice", axis=1), node("Add", ("y", "twice"), "sum")])
    graph.graph.output[0].name = "sum"
    findings = found(ir.from_proto(graph))
    assert any("adds to a quantized layer" in finding.problem for finding in findings)


def test_nothing_is_said_of_what_is_right() -> None:
    assert [finding.problem for finding in found(quantized_model()) if "padded" not in finding.problem] == []


def trained(width: int = 32) -> Program:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, width), nn.Softmax(-1))
    return capture_module(layers.eval(), (torch.randn(8, width),), ({0: torch.export.Dim("batch", min=1)},))


def rewritten(program: Program, item: Any, target: Target = H100) -> Program:
    made = program.clone()
    item(made, Context(calibration=(program.inputs,), target=target, backend="tensorrt"))
    return refresh(made)


@pytest.mark.parametrize(
    ("item", "stored"),
    [
        (Quantize(backend="tensorrt", noise=1.0, anyway=True), ir.DataType.INT8),
        (QuantizeWeights(format="int8", backend="tensorrt"), ir.DataType.INT8),
        (QuantizeWeights(format="int4", backend="tensorrt"), ir.DataType.INT4),
        (QuantizeWeights(format="e4m3", backend="tensorrt"), ir.DataType.FLOAT8E4M3FN),
    ],
)
def test_stored_weights_are_taken_back_by_one_node(item: Any, stored: ir.DataType) -> None:
    program = rewritten(trained(64), item)
    model = to_tensorrt_model(program)
    check_model(model)
    firsts = [(item, item.inputs[0]) for item in model.graph if item.op_type == "DequantizeLinear"]
    taken = [(item, first) for item, first in firsts if first is not None and first.const_value]
    assert [first.dtype for _, first in taken] == [stored, stored]
    assert "Cast" not in [item.op_type for item in model.graph]
    if stored == ir.DataType.INT4:
        assert all(one.attributes["axis"].value == 0 and "block_size" in one.attributes for one, _ in taken)
    (got,), (wanted,) = Session(model, 1).run(program.inputs), program.run(program.inputs)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    assert not [finding for finding in lint(program, H100, Options(), LATEST) if finding.fatal]


def test_quantization_for_other_runtimes_is_named() -> None:
    program = rewritten(trained(), Quantize(backend="onnxruntime", noise=1.0, anyway=True), named("cpu"))
    fatal = [finding.problem for finding in lint(program, H100, Options(), LATEST) if finding.fatal]
    assert any("levels are uint8" in problem for problem in fatal)
    assert any("32-bit integers" in problem for problem in fatal)


def test_casts_are_explicit_with_islands_in_float32() -> None:
    program = rewritten(trained(), Cast(backend="tensorrt"))
    model = to_tensorrt_model(program)
    check_model(model)
    types = {item.op_type: item.outputs[0].dtype for item in model.graph}
    assert types["Softmax"] == ir.DataType.FLOAT
    products = [item for item in model.graph if item.op_type in ("Gemm", "MatMul")]
    assert {item.outputs[0].dtype for item in products} == {ir.DataType.FLOAT16}
    problems = [finding.problem for finding in lint(program, H100, Options(), LATEST)]
    assert not any("float32 numbers" in problem for problem in problems)


def test_float32_throughout_is_named_once() -> None:
    findings = lint(trained(), H100, Options(), LATEST)
    assert sum("all 2 layers multiply float32" in finding.problem for finding in findings) == 1
    assert not any("float32" in item.problem for item in lint(trained(), H100, Options(tf32=True), LATEST))


def test_what_the_device_lacks() -> None:
    program = rewritten(trained(), Cast(dtype="bfloat16", backend="tensorrt"))
    assert any("t4 has no bfloat16" in finding.problem for finding in lint(program, T4, Options(), LATEST))
    assert not any("bfloat16" in finding.problem for finding in lint(program, H100, Options(), LATEST))
    old = lint(trained(), named("v100"), Options(), LATEST)
    assert old[0].fatal and "wants 7.5" in old[0].problem
    assert capability(Target("cuda", "cuda")) is None


def test_channels_that_are_padded() -> None:
    problems = [
        item.problem for item in lint(rewritten(trained(30), Cast(backend="tensorrt")), H100, Options(), LATEST)
    ]
    assert "channels in float16 that are no multiple of 8 are padded (here and at 1 more)" in problems


def sparse(width: int, dtype: torch.dtype) -> Program:
    layer = nn.Linear(width, width, bias=False)
    layer.weight.data = torch.tensor([1.0, 0.0, 0.0, 2.0]).repeat(width, width // 4)
    return capture_module(layer.to(dtype).eval(), (torch.ones(8, width, dtype=dtype),))


@pytest.mark.parametrize(
    ("width", "dtype", "problem"),
    [
        (64, torch.float16, "fewer than the 256"),
        (256, torch.float32, "float32"),
        (256, torch.float16, ""),
    ],
)
def test_two_four_weights_without_kernels(width: int, dtype: torch.dtype, problem: str) -> None:
    program = sparse(width, dtype)
    problems = [item.problem for item in lint(program, H100, Options(), LATEST) if "2:4" in item.problem]
    assert len(problems) == bool(problem) and all(problem in text for text in problems)
    if not problem:
        off = lint(program, H100, Options(sparse=False), LATEST)
        assert any("switched off" in item.problem for item in off)


def test_dimensions_without_a_largest_size() -> None:
    program = trained()
    problems = [item for item in lint(program, H100, Options(), LATEST) if "no largest size" in item.problem]
    assert len(problems) == 1 and "the profile ends at 64" in problems[0].problem
    assert "shapes=batch:1:8:64" in problems[0].remedy
    given = Options(shapes="batch:1:8:32")
    assert not unbounded(program, given)
    assert not any("no largest size" in item.problem for item in lint(program, H100, given, LATEST))
    (profile,) = profiles(program, given)
    assert profile.shapes == {program.interface.input_names[0]: ((1, 32), (8, 32), (32, 32))}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ("bach:1:2:3", "did you mean 'batch'"),
        ("batch:3:2:1", "does not rise"),
        ("batch:1:2", "cannot read"),
        ("batch:0:2:3", "does not rise"),
        ("batch=1", "cannot read"),
    ],
)
def test_shapes_that_do_not_fit(shapes: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        profiles(trained(), Options(shapes=shapes))


def test_shapes_outside_of_the_model_s_bounds() -> None:
    batch = torch.export.Dim("batch", min=2, max=16)
    program = capture_module(nn.Linear(4, 4).eval(), (torch.randn(4, 4),), ({0: batch},))
    with pytest.raises(UsageError, match="it takes 2 to 16"):
        profiles(program, Options(shapes="batch:1:2:32"))
    (profile,) = profiles(program, Options())
    assert [shape[0] for shape in next(iter(profile.shapes.values()))] == [2, 4, 16]
    assert not unbounded(program, Options())


def test_fixed_shapes_need_no_profile() -> None:
    program = capture_module(nn.Linear(4, 4).eval(), (torch.randn(4, 4),))
    assert profiles(program, Options()) == ()


def test_a_program_without_onnx_form_and_a_device_without_cuda() -> None:
    class Complex(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x).real

    findings = lint(capture_module(Complex().eval(), (torch.eye(3),)), H100, Options(), LATEST)
    assert findings[0].fatal and "no ONNX form" in findings[0].problem
    assert "not on 'cpu'" in lint(trained(), named("cpu"), Options(), LATEST)[0].problem


def test_the_tables_agree() -> None:
    assert set(SINCE) <= set(OPERATORS)
    assert not set(REMEDIES) & set(OPERATORS)
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    outdated = {"ImageScaler", "ParametricSoftplus", "Scatter", "ScaledTanh", "Upsample"}
    assert set(OPERATORS) - outdated <= known


def test_exact_passes_change_nothing_for_it() -> None:
    outcome = run(trained(), [])
    graph = to_tensorrt_model(outcome.program).graph
    for_tensorrt(graph)
    assert len(list(graph)) == len(list(to_tensorrt_model(trained()).graph))
