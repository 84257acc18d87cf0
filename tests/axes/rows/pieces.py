"""Sample calls of what joins and takes apart."""

from __future__ import annotations

import torch

from tests.axes.one_node import row
from tests.axes.rows.samples import b, r

A = torch.ops.aten

ROWS = [
    row(A.cat.default, [r(2, 3), r(2, 4), r(2, 1)], 1, free=3),
    row(A.cat.default, [torch.zeros(0), r(2, 3), r(2, 3)], -1, free=3),
    row(A.concat.default, [r(2, 3), r(4, 3)], free=3),
    row(A.concatenate.default, [r(2, 3), r(4, 3)], free=3),
    row(A.stack.default, [r(2, 3), r(2, 3)], 1, free=2),
    row(A.split_with_sizes.default, r(2, 9), [2, 3, 4], 1, free=4),
    row(A.split_with_sizes_copy.default, r(9, 2), [2, 3, 4], free=4),
    row(A.split.Tensor, r(2, 8), 4, 1, free=2),
    row(A.split.Tensor, r(2, 7), 4, 1, free=1),
    row(A.split.sizes, r(2, 9), [3, 3, 3], 1, free=4),
    row(A.chunk.default, r(2, 8), 2, 1, free=2),
    row(A.tensor_split.sections, r(2, 8), 4, 1, free=2),
    row(A.tensor_split.indices, r(2, 9), [2, 5], 1, free=4),
    row(A.unbind.int, r(2, 3, 4), 1, free=2),
    row(A.select.int, r(2, 5, 4), 1, -2, free=3),
    row(A.slice.Tensor, r(2, 9), 1, 2, -3, free=4),
    row(A.slice.Tensor, r(2, 8), 1, 1, 99, 2, free=2),
    row(A.slice.Tensor, r(2, 8), 1, 4, None, 2, free=3),
    row(A.slice.Tensor, r(2, 8), 1, free=2),
    row(A.slice_scatter.default, r(2, 9), r(2, 4), 1, 2, 6, free=4),
    row(A.select_scatter.default, r(2, 5, 4), r(2, 4), 1, 3, free=3),
    row(A.meshgrid.indexing, [r(2), r(3), r(4)], indexing="ij", free=3),
    row(A.meshgrid.indexing, [r(2), r(3), r(4)], indexing="xy", free=3),
    row(A.repeat.default, r(3, 4), [2, 1, 3], free=2),
    row(A.tile.default, r(3, 4), [2], free=2),
    row(A.repeat_interleave.self_int, r(3, 4), 2, 1, output_size=8, free=2),
    row(A.constant_pad_nd.default, r(3, 4, 5), [1, 2, 0, 0, 0, 3], 0.5, free=3),
    row(A.constant_pad_nd.default, r(3, 4, 5), [-1, 0], free=2),
    row(A.pad.default, r(3, 4, 5), [1, 0], free=3),
    row(A.pad.default, r(3, 4, 5), [1, 0], "reflect", free=2),
    *(row(getattr(A, f"{kind}_pad{n}d").default, r(2, 3, *(4,) * n), [1] * 2 * n, free=2)
      for kind in ("reflection", "replication") for n in (1, 2, 3)),
    row(A.flip.default, r(3, 4, 5), [0, 2], free=1),
    row(A.roll.default, r(3, 4, 5), [1], [1], free=2),
    row(A.cumprod.default, r(3, 4), 1, free=1),
    row(A.logcumsumexp.default, r(3, 4), 0, free=1),
    row(A.unfold.default, r(3, 6, 4), 1, 2, 1, free=2),
    row(A.tril.default, r(2, 3, 4), free=1),
    row(A.triu.default, r(2, 3, 4), free=1),
    row(A.diagonal.default, r(2, 3, 4), 0, 0, 2, free=1),
    row(A.diag_embed.default, r(2, 3, 4), 0, 0, 2, free=2),
    row(A.rot90.default, r(3, 4), free=0),
    row(A.cummax.default, r(3, 4), 1, free=0),
    row(A.cummin.default, r(3, 4), 1, free=0),
    row(A.as_strided.default, r(3, 4), [2, 2], [4, 1], free=0),
    row(A.block_diag.default, [r(2, 3), r(3, 2)], free=0),
    row(A.tensordot.default, r(3, 4), r(4, 5), [1], [0], free=0),
    row(A.kron.default, r(2, 3), r(3, 2), free=0),
    row(A.linalg_cross.default, r(4, 3), r(4, 3), free=0),
    row(A.cross.default, r(4, 3), r(4, 3), free=0),
    row(A.glu.default, r(2, 8, 3), 1, free=3),
    row(A.masked_select.default, r(3, 4), b(3, 4), free=0),
]  # fmt: skip
