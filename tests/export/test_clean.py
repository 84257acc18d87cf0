"""The clean-up on hand-made graphs: what it removes, and what it must leave alone."""

import numpy
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from tersor.export.clean import clean
from tersor.export.shapes import reshape_target


def cleaned(text: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
    model = ir.from_proto(proto)
    clean(model)
    made = ir.to_proto(model)
    onnx.checker.check_model(made, full_check=True)
    return proto, made


def same(proto: onnx.ModelProto, made: onnx.ModelProto, **feeds: numpy.ndarray) -> list[str]:
    """Operators of the cleaned model, after both gave equal outputs."""
    results = []
    for model in (proto, made):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        results.append(session.run(None, feeds))
    for wanted, got in zip(*results, strict=True):
        numpy.testing.assert_array_equal(wanted, got)
    return [node.op_type for node in made.graph.node]


X = numpy.random.RandomState(0).randn(3, 4, 5).astype("f")

CASES = {
    "sizes that the input has": (
        """g (float[n, 4, 5] x) => (float[n, 20] y) {
            s = Shape(x) i = Constant<value_int = 0>() a = Constant<value_ints = [0]>()
            n = Gather(s, i) v = Unsqueeze(n, a) r = Constant<value_ints = [20]>() t = Concat<axis = 0>(v, r)
            y = Reshape(x, t) }""",
        ["Reshape"],
    ),
    "expand to its own shape": (
        "g (float[n, 4, 5] x) => (float[n, 4, 5] y) { s = Shape(x) e = Expand(x, s) y = Relu(e) }",
        ["Relu"],
    ),
    "a cast to the same type, and transposes that cancel": (
        """g (float[n, 4, 5] x) => (float[n, 4, 5] y) {
            c = Cast<to = 1>(x) t = Transpose<perm = [2, 0, 1]>(c) u = Transpose<perm = [1, 2, 0]>(t) y = Relu(u) }""",
        ["Relu"],
    ),
    "a transpose that is read twice stays": (
        """g (float[n, 4, 5] x) => (float[5, n, 4] z, float[4, 5, n] y) {
            t = Transpose<perm = [2, 0, 1]>(x) z = Relu(t) y = Transpose<perm = [2, 0, 1]>(t) }""",
        ["Transpose", "Relu", "Transpose"],
    ),
    "arithmetic on numbers": (
        """g (float[n, 4, 5] x) => (float[n, 4, 5] y) {
            a = Constant<value_float = 2.0>() b = Sqrt(a) c = Mul(a, b) y = Div(x, c) }""",
        ["Div"],
    ),
    "adding zero keeps the sign of zero": (
        "g (float[n, 4, 5] x) => (float[n, 4, 5] y) { a = Constant<value_float = 0.0>() y = Add(x, a) }",
        ["Add"],
    ),
    "a random value is drawn twice": (
        """g (float[n, 4, 5] x) => (float[n, 4, 5] y) {
            a = RandomNormalLike(x) b = RandomNormalLike(x) s = Sub(a, b) z = Mul(s, s) c = Less(z, z)
            d = Cast<to = 1>(c) y = Mul(d, x) }""",
        ["RandomNormalLike", "RandomNormalLike", "Sub", "Mul", "Less", "Cast", "Mul"],
    ),
    "a pad that reflects stays": (
        """g (float[n, 4, 5] x) => (float[n, 4, 3] y) {
            p = Constant<value_ints = [0, 0, 1, 0, 0, 0]>() q = Pad<mode = "reflect">(x, p)
            y = AveragePool<kernel_shape = [2], strides = [2]>(q) }""",
        ["Pad", "AveragePool"],
    ),
    "a pad of zeros in front of an average that does not count them stays": (
        """g (float[n, 4, 5] x) => (float[n, 4, 3] y) {
            p = Constant<value_ints = [0, 0, 1, 0, 0, 0]>() q = Pad(x, p)
            y = AveragePool<kernel_shape = [2], strides = [2]>(q) }""",
        ["Pad", "AveragePool"],
    ),
    "slices on two axes": (
        """g (float[n, 4, 5] x) => (float[n, 2, 3] y) {
            a = Constant<value_ints = [1]>() b = Constant<value_ints = [3]>() c = Constant<value_ints = [0]>()
            two = Constant<value_ints = [2]>()
            s = Slice(x, a, b, a) y = Slice(s, c, b, two) }""",
        ["Slice"],
    ),
    "slices on one axis": (
        """g (float[n, 4, 5] x) => (float[n, 1, 5] y) {
            a = Constant<value_ints = [1]>() b = Constant<value_ints = [3]>()
            two = Constant<value_ints = [2]>()
            s = Slice(x, a, b, a) y = Slice(s, a, two, a) }""",
        ["Slice", "Slice"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_graphs(name):
    text, wanted = CASES[name]
    proto, made = cleaned(text)
    if "random" in name:
        assert [node.op_type for node in made.graph.node] == wanted
    else:
        assert same(proto, made, x=X) == wanted


def test_matrix_product_and_vector_become_gemm():
    proto, made = cleaned(
        """g (float[n, 4] x, float[4, 5] w) => (float[n, 5] y)
        <float[5] b = {1, 2, 3, 4, 5}> { p = MatMul(x, w) y = Add(p, b) }"""
    )
    weight = numpy.ones((4, 5), "f")
    assert same(proto, made, x=X[:, :, 0], w=weight) == ["Gemm"]


def test_two_unknown_sizes_are_not_guessed():
    assert reshape_target(("n", "m", 4), ("2*n", "2*m")) is None
    assert reshape_target(("n", "m", 4), ("m", "n", 4)) is None
    assert reshape_target((0, 4), (4, 0)) is None
    assert reshape_target(("n", 4), ("n", 2, 2)) == [0, 2, 2]


def test_large_folds_are_left_to_the_runtime():
    _, made = cleaned(
        """g (float[n, 4] x) => (float[1000, 1000] y) {
        s = Constant<value_ints = [1000, 1000]>() o = ConstantOfShape(s)
        m = ReduceMax<keepdims = 0>(x) y = Add(o, m) }"""
    )
    assert made.ByteSize() < 2000
