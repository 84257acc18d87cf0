"""Sample calls of views, permutations and squeezes."""

from __future__ import annotations

import torch

from tests.axes.one_node import row
from tests.axes.rows.samples import r

A = torch.ops.aten

ROWS = [
    row(A.reshape.default, r(2, 6, 4), [2, 3, 2, 4], free=4),
    row(A.reshape.default, r(2, 3, 4), [6, 4], free=3),
    row(A.reshape.default, r(6, 4), [3, 8], free=3),
    row(A.view.default, r(2, 12), [2, 3, -1], free=3),
    row(A.view.default, r(4, 6), [24], free=2),
    row(A.view.default, r(1, 6), [6, 1, 1], free=1),
    row(A._unsafe_view.default, r(2, 12), [2, 3, 4], free=3),
    row(A.flatten.using_ints, r(2, 3, 4), 1, free=3),
    row(A.unflatten.int, r(2, 12), 1, [3, -1], free=3),
    row(A.view_as.default, r(2, 12), r(2, 3, 4), free=3),
    row(A.reshape_as.default, r(2, 12), r(2, 3, 4), free=3),
    row(A.permute.default, r(2, 3, 4), [2, 0, -2], free=3),
    row(A.transpose.int, r(2, 3, 4), 0, -1, free=3),
    row(A.swapaxes.default, r(2, 3, 4), 0, -1, free=3),
    row(A.t.default, r(2, 3), free=2),
    row(A.t.default, r(3), free=1),
    row(A.numpy_T.default, r(2, 3), free=2),
    row(A.mT.default, r(4, 2, 3), free=3),
    row(A.adjoint.default, r(4, 2, 3), free=3),
    row(A.movedim.int, r(2, 3, 4), 0, -1, free=3),
    row(A.movedim.intlist, r(2, 3, 4, 5), [0, 3], [1, 0], free=4),
    row(A.squeeze.default, r(2, 1, 3), free=1),
    row(A.squeeze.dim, r(2, 1, 3), 1, free=2),
    row(A.squeeze.dims, r(1, 4, 1, 3), [0, 1, 2], free=2),
    row(A.squeeze_.dim, r(2, 1, 3), 1, free=2),
    row(A.unsqueeze.default, r(2, 3), 1, free=2),
    row(A.channel_shuffle.default, r(2, 6, 3), 2, free=4),
    row(A.native_channel_shuffle.default, r(2, 6, 3), 3, free=4),
]  # fmt: skip
