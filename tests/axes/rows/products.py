"""Sample calls of matrix products and attention."""

from __future__ import annotations

import torch

from tests.axes.one_node import row
from tests.axes.rows.samples import b, r

A = torch.ops.aten
SDPA = A.scaled_dot_product_attention.default

ROWS = [
    row(A.linear.default, r(2, 3, 5), r(4, 5), r(4), free=4),
    row(A.linear.default, r(2, 5), r(5), free=2),
    row(A.matmul.default, r(2, 1, 3, 4), r(6, 4, 5), free=5),
    row(A.matmul.default, r(4), r(4, 5), free=2),
    row(A.matmul.default, r(2, 3, 4), r(4), free=3),
    row(A.bmm.default, r(2, 3, 4), r(2, 4, 5), free=4),
    row(A.mm.default, r(3, 4), r(4, 5), free=3),
    row(A.mv.default, r(3, 4), r(4), free=2),
    row(A.dot.default, r(4), r(4), free=1),
    row(A.addmm.default, r(5), r(3, 4), r(4, 5), free=3),
    row(A.baddbmm.default, r(3, 5), r(2, 3, 4), r(2, 4, 5), free=4),
    row(A.addbmm.default, r(3, 5), r(2, 3, 4), r(2, 4, 5), free=4),
    row(A.addmv.default, r(3), r(3, 4), r(4), free=2),
    row(A.outer.default, r(3), r(4), free=2),
    row(A.ger.default, r(3), r(4), free=2),
    row(A.inner.default, r(2, 3), r(4, 3), free=3),
    row(A.bilinear.default, r(2, 3), r(2, 4), r(5, 3, 4), r(5), free=4),
    row(A.cdist.default, r(2, 3, 4), r(2, 5, 4), free=4),
    row(A._cdist_forward.default, r(3, 4), r(5, 4), 2.0, None, free=3),
    row(A._euclidean_dist.default, r(3, 4), r(5, 4), free=3),
    row(A.cosine_similarity.default, r(2, 3, 4), r(3, 1), free=3),
    row(A.einsum.default, "bhid,bhjd->bhij", [r(2, 3, 4, 5), r(2, 3, 6, 5)], free=5),
    row(A.einsum.default, "...i,ij", [r(2, 3, 4), r(4, 5)], free=4),
    row(A.einsum.default, "b...c,cd->d...b", [r(2, 3, 4), r(4, 5)], free=4),
    row(A.einsum.default, "ij,kj->ki", [r(1, 4), r(5, 4)], free=2),
    row(A.einsum.default, "ii->i", [r(3, 3)], free=0),
    row(A.einsum.default, "ij->j", [r(3, 4)], free=2),
    row(SDPA, r(2, 4, 3, 6), r(2, 4, 5, 6), r(2, 4, 5, 7), free=6),
    row(SDPA, r(2, 4, 3, 6), r(2, 2, 5, 6), r(2, 2, 5, 7), b(3, 5), enable_gqa=True, free=7),
    row(SDPA, r(2, 4, 3, 6), r(2, 1, 5, 6), r(2, 1, 5, 7), r(4, 3, 5), enable_gqa=True, free=6),
    row(SDPA, r(2, 3, 6), r(2, 5, 6), r(2, 5, 7), scale=0.3, free=5),
    row(SDPA, r(2, 4, 5, 6), r(2, 4, 5, 6), r(2, 4, 5, 7), None, 0.0, True, free=4),
]  # fmt: skip
