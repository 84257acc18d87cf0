"""Sample calls of normalisations, reductions, transforms."""

from __future__ import annotations

import torch

from tests.axes.one_node import row
from tests.axes.rows.samples import b, p, r

A = torch.ops.aten
STATISTICS = [A.mean, A.var, A.std, A.amax, A.amin, A.logsumexp]

ROWS = [
    row(A.batch_norm.default, r(2, 3, 4), r(3), r(3), r(3), p(3), False, 0.1, 1e-5, False, free=3),
    row(A._native_batch_norm_legit_no_training.default, r(2, 3, 4), r(3), r(3), r(3), p(3), 0.1, 1e-5, free=3),
    row(A.native_batch_norm.default, r(2, 3, 4), r(3), r(3), r(3), p(3), False, 0.1, 1e-5, free=3),
    row(A.native_batch_norm.default, r(2, 3, 4), r(3), r(3), None, None, True, 0.1, 1e-5, free=3),
    row(A._native_batch_norm_legit.no_stats, r(2, 3, 4), r(3), r(3), True, 0.1, 1e-5, free=3),
    row(A._native_batch_norm_legit_functional.default, r(2, 3, 4), r(3), r(3), r(3), p(3), True, 0.1, 1e-5, free=3),
    row(A.layer_norm.default, r(2, 3, 4), [4], r(4), r(4), free=3),
    row(A.layer_norm.default, r(2, 3, 4), [3, 4], r(3, 4), None, free=3),
    row(A.rms_norm.default, r(2, 3, 4), [4], r(4), 1e-6, free=3),
    row(A.native_layer_norm.default, r(2, 3, 4), [4], r(4), r(4), 1e-5, free=3),
    row(A._fused_rms_norm.default, r(2, 3, 4), [4], r(4), 1e-6, free=3),
    row(A.group_norm.default, r(2, 6, 3), 2, r(6), r(6), free=3),
    row(A.instance_norm.default, r(2, 3, 4), r(3), r(3), None, None, True, 0.1, 1e-5, False, free=2),
    row(A._weight_norm.default, r(4, 3, 2), r(1, 1, 2), 2, free=3),
    row(A._weight_norm_interface.default, r(4, 3, 2), r(4, 1, 1), free=3),
    row(A.softmax.int, r(2, 3, 4), -1, free=3),
    row(A._softmax.default, r(2, 3, 4), 1, False, free=3),
    row(A.log_softmax.int, r(2, 3, 4), 1, free=3),
    row(A._log_softmax.default, r(2, 3, 4), 1, False, free=3),
    row(A._safe_softmax.default, r(2, 3, 4), 1, free=3),
    row(A.sum.dim_IntList, r(2, 3, 4), [1, -1], True, free=3),
    row(A.sum.default, r(2, 3), free=2),
    row(A.linalg_vector_norm.default, r(2, 3, 4), 2, [1], free=3),
    row(A.linalg_vector_norm.default, r(2, 3, 4), -1, [1], free=3),
    row(A.norm.ScalarOpt_dim, r(2, 3, 4), 2, [1], True, free=3),
    *(row(getattr(op, "dim", op.default), r(2, 3, 4), [-1], free=3) for op in STATISTICS),
    row(A.var_mean.dim, r(2, 3, 4), [1], free=3),
    row(A.std_mean.dim, r(2, 3, 4), [1], free=3),
    row(A.prod.dim_int, r(2, 3, 4), 1, free=3),
    row(A.any.dim, b(2, 3, 4), 1, free=3),
    row(A.all.dim, b(2, 3, 4), 1, True, free=3),
    row(A.max.dim, r(2, 3, 4), 1, free=3),
    row(A.min.dim, r(2, 3, 4), 1, True, free=3),
    row(A.max.default, r(2, 3), free=2),
    row(A.max.other, r(2, 3), r(3), free=2),
    row(A.nansum.default, r(2, 3, 4), [1], free=3),
    row(A.nanmean.default, r(2, 3, 4), [1], free=3),
    row(A.count_nonzero.dim_IntList, b(2, 3, 4), [1], free=3),
    row(A.aminmax.default, r(2, 3, 4), dim=1, free=3),
    row(A.median.dim, r(2, 3, 4), 2, free=3),
]  # fmt: skip
