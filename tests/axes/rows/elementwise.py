"""Sample calls of operators that treat every element alike."""

from __future__ import annotations

import torch

from tests.axes.one_node import row
from tests.axes.rows.samples import b, i, p, r

A = torch.ops.aten

ONE = [
    A.clone, A.contiguous, A.detach, A.alias, A.lift_fresh_copy, A.square, A.gelu, A.silu, A.mish, A.elu, A.celu,
    A.selu, A.relu6, A.hardtanh, A.hardswish, A.hardsigmoid, A.leaky_relu, A.softplus, A.log_sigmoid, A.softshrink,
    A.rrelu, A.nan_to_num, A.isnan, A.isinf, A.logical_not, A.special_erf, A.negative, A.zeros_like, A.ones_like,
    A.zero, A.relu, A.sigmoid, A.tanh, A.exp, A.rsqrt, A.neg,
]  # fmt: skip
TWO = [
    A.pow.Tensor_Tensor, A.float_power.Tensor_Tensor, A.type_as.default, A.copy.default, A.fmod.Tensor,
    A.remainder.Tensor, A.maximum.default, A.minimum.default, A.floor_divide.default, A.logical_and.default,
    A.logical_or.default, A.logical_xor.default, A.multiply.Tensor, A.true_divide.Tensor, A.add.Tensor, A.rsub.Tensor,
    A.mul.Tensor, A.sub.Tensor, A.div.Tensor, A.clamp_min.Tensor, A.clamp_max.Tensor,
]  # fmt: skip
BITS = [A.__and__.Tensor, A.__or__.Tensor, A.__xor__.Tensor, A.bitwise_and.Tensor, A.bitwise_or.Tensor]
Q = torch.ops.quantized_decomposed

ROWS = [
    *(row(op.default, p(3, 4, 2), free=3) for op in ONE),
    *(row(op, p(3, 4, 2), p(3, 4, 2), free=3) for op in TWO),
    *(row(op, i(9, 3, 4), i(9, 3, 4), free=2) for op in BITS),
    row(A.add.Tensor, r(3, 4, 2), r(4, 1), free=3),
    row(A.add.Tensor, r(3, 1, 2), r(4, 1), free=3),
    row(A.bitwise_not.default, b(3, 4), free=2),
    row(A.detach_.default, r(3, 4), free=2),
    row(A.to.dtype, r(3, 4), torch.float32, free=2),
    row(A._to_copy.default, r(3, 4), dtype=torch.int32, free=2),
    row(A.dropout.default, r(3, 4), 0.5, False, free=2),
    row(A.feature_dropout.default, r(3, 4), 0.5, False, free=2),
    row(A.alpha_dropout.default, r(3, 4), 0.5, False, free=2),
    row(A.masked_fill.Scalar, r(3, 4, 2), b(4, 1), 2.0, free=3),
    row(A.where.self, b(4, 1), r(3, 4, 2), r(2), free=3),
    row(A.clamp.default, r(3, 4), -0.5, 0.5, free=2),
    row(A.lerp.Tensor, r(3, 4), r(3, 4), r(4), free=2),
    row(A.addcmul.default, r(3, 4), r(3, 4), r(4), free=2),
    row(A.addcdiv.default, r(3, 4), r(3, 4), p(4), free=2),
    row(A.full_like.default, r(3, 4), 2.0, free=2),
    row(A.fill.Scalar, r(3, 4), 2.0, free=2),
    row(A.fill.Tensor, r(3, 4), torch.tensor(2.0), free=2),
    row(A.empty_like.default, torch.empty(0, 1), free=0),
    row(A.threshold.default, r(3, 4), 0.1, 0.0, free=2),
    row(A.fake_quantize_per_tensor_affine.default, r(3, 4).float(), 0.1, 0, -128, 127, free=2),
    row(Q.quantize_per_tensor.default, r(3, 4).float(), 0.1, 0, -128, 127, torch.int8, free=2),
    row(Q.dequantize_per_tensor.default, i(9, 3, 4).to(torch.int8), 0.1, 0, -128, 127, torch.int8, free=2),
    row(A.prelu.default, r(2, 3, 4), r(3), free=3),
    row(A.prelu.default, r(2, 3, 4), r(1), free=3),
    row(A._prelu_kernel.default, r(2, 3, 4), r(1, 3, 1), free=3),
    row(A.expand.default, r(3, 1, 4), [5, 3, 2, -1], free=4),
    row(A.expand_as.default, r(3, 1), r(3, 4), free=2),
    row(A.broadcast_to.default, r(3, 1), [3, 4], free=2),
    row(A.full.default, [3, 4], 1.0, free=2),
    row(A.zeros.default, [3, 4], free=2),
    row(A.ones.default, [3, 4], free=2),
    row(A.empty.memory_format, [0, 1], free=0),
    row(A.new_zeros.default, r(2), [3, 4], free=3),
    row(A.new_ones.default, r(2), [3, 4], free=3),
    row(A.new_full.default, r(2), [3, 4], 2.0, free=3),
    row(A.new_empty.default, r(2), [0, 1], free=1),
]  # fmt: skip
