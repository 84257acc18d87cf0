"""What TensorRT's ONNX parser imports: operators, the types they take, and the version that brought them.

Sources: onnx-tensorrt, docs/operators.md at 10.15 (opsets 9 to 24), its onnxOpImporters.cpp where that says more, and
the release notes of 10.14 and 11.0. Where TensorRT is installed its own parser is asked too, see `_tensorrt_parser`.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from tersor.backends._tensorrt_options import Version

OPSETS = (9, 24)
RANK = 8
"""``Dims.MAX_DIMS``."""

_FLOAT = """
    Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization BlackmanWindow Ceil Celu Conv ConvTranspose Cos
    Cosh DeformConv Dropout Einsum Elu Erf Exp Floor Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample
    GroupNormalization GRU HammingWindow HannWindow HardSigmoid HardSwish Hardmax ImageScaler InstanceNormalization
    IsInf LayerNormalization LeakyRelu Log LogSoftmax LRN LSTM LpNormalization LpPool MatMul MaxPool
    MeanVarianceNormalization Mish NonMaxSuppression ParametricSoftplus PRelu QuantizeLinear RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Reciprocal Resize RMSNormalization RNN RoiAlign RotaryEmbedding
    Round STFT ScaledTanh Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
    Upsample"""
_NUMBER = """
    Abs Add ArgMax ArgMin Clip CumSum DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less LessOrEqual Max
    Mean Min Mod Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Scatter ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum
    TensorScatter TopK"""
_ANY = """
    Attention Cast CastLike Concat Constant ConstantOfShape DequantizeLinear Expand EyeLike Flatten Gather
    GatherElements GatherND Identity If Loop NonZero OneHot Reshape ReverseSequence Shape Size Slice Split Squeeze
    Tile Transpose Trilu Unsqueeze Where"""
_BOOLEAN = "And Not Or Xor"

OPERATORS: Mapping[str, str] = {
    **dict.fromkeys(_FLOAT.split(), "f"),
    **dict.fromkeys(_NUMBER.split(), "fi"),
    **dict.fromkeys(_ANY.split(), "fibq"),
    **dict.fromkeys(_BOOLEAN.split(), "b"),
}
"""Imported operators, and the kinds of numbers that their first input may be: floats, integers, Booleans, levels."""

SINCE: Mapping[str, Version] = {
    "Attention": (10, 14),
    "RMSNormalization": (10, 15),
    "RotaryEmbedding": (10, 15),
    "TensorScatter": (10, 15),
    "Swish": (11, 0),
}

_STATIC = "use scales from calibration: quantize{backend=tensorrt} in place of dynamic quantization"
_FIXED = "give the dimension that decides how many there are a fixed size"
REMEDIES: Mapping[str, str] = {
    "DynamicQuantizeLinear": _STATIC,
    "MatMulInteger": _STATIC,
    "ConvInteger": _STATIC,
    "QLinearConv": "write the quantized layer with QuantizeLinear and DequantizeLinear",
    "QLinearMatMul": "write the quantized layer with QuantizeLinear and DequantizeLinear",
    "SplitToSequence": _FIXED,
    "SequenceAt": _FIXED,
    "ConcatFromSequence": _FIXED,
    "BitwiseAnd": "use Booleans, or arithmetic",
    "BitwiseOr": "use Booleans, or arithmetic",
    "BitwiseNot": "use Booleans, or arithmetic",
    "BitwiseXor": "use Booleans, or arithmetic",
    "DFT": "write the transform as products with a constant matrix",
    "Unique": "move it behind the model",
    "Compress": "move it behind the model",
    "Multinomial": "sample behind the model",
    "Bernoulli": "sample behind the model",
}
ELSEWHERE = "replace it in the model, register a TensorRT plugin of that name, or use the onnxruntime backend"

KINDS: Mapping[ir.DataType, str] = {
    ir.DataType.FLOAT: "f",
    ir.DataType.FLOAT16: "f",
    ir.DataType.BFLOAT16: "f",
    ir.DataType.DOUBLE: "f",
    ir.DataType.INT32: "i",
    ir.DataType.INT64: "i",
    ir.DataType.BOOL: "b",
    ir.DataType.UINT8: "u",
    ir.DataType.INT8: "q",
    ir.DataType.INT4: "q",
    ir.DataType.FLOAT8E4M3FN: "q",
    ir.DataType.FLOAT4E2M1: "q",
}
"""The kind of each type that TensorRT holds; unsigned bytes pass in and out only."""

NEEDS: Mapping[ir.DataType, tuple[int, int]] = {
    ir.DataType.BFLOAT16: (8, 0),
    ir.DataType.FLOAT8E4M3FN: (8, 9),
    ir.DataType.FLOAT4E2M1: (10, 0),
    ir.DataType.INT4: (7, 5),
    ir.DataType.INT8: (7, 5),
    ir.DataType.FLOAT16: (7, 0),
}
"""Compute capability from which a type has tensor-core kernels."""
