"""Sample calls of convolutions, pooling, resampling and other reading of images at places."""

from __future__ import annotations

from typing import Any

import torch

from tests.axes.one_node import row
from tests.axes.rows.samples import i, p, r

A = torch.ops.aten


def _pools() -> list[Any]:
    made = []
    for n in (1, 2, 3):
        image, size = r(2, 3, *(4,) * n), [2] * n
        made += [
            row(getattr(A, f"max_pool{n}d").default, image, size, free=2),
            row(getattr(A, f"max_pool{n}d_with_indices").default, image, size, free=2),
            row(getattr(A, f"avg_pool{n}d").default, image, size, free=2),
            row(getattr(A, f"adaptive_avg_pool{n}d").default, image, size, free=2),
            row(getattr(A, f"adaptive_max_pool{n}d").default, image, size, free=2),
            row(getattr(A, f"upsample_nearest{n}d").vec, image, None, [2.0] * n, free=2),
            row(getattr(A, f"_upsample_nearest_exact{n}d").vec, image, None, [2.0] * n, free=2),
        ]
    return made


ROWS = [
    row(A.conv1d.default, r(2, 4, 8), r(6, 4, 3), r(6), free=3),
    row(A.conv1d.default, r(4, 8), r(6, 4, 3), free=2),
    row(A.conv2d.default, r(2, 4, 5, 5), r(6, 4, 3, 3), r(6), [2, 2], [1, 1], free=3),
    row(A.conv2d.default, r(2, 4, 5, 5), r(6, 4, 1, 1), r(6), free=5),
    row(A.conv2d.default, r(2, 6, 5, 5), r(9, 2, 3, 3), r(9), [1, 1], [1, 1], [1, 1], 3, free=4),
    row(A.conv2d.default, r(2, 4, 5, 5), r(8, 1, 3, 3), r(8), [1, 1], [1, 1], [1, 1], 4, free=3),
    row(A.conv2d.padding, r(2, 4, 5, 5), r(6, 4, 3, 3), None, [1, 1], "same", free=3),
    row(A.conv3d.default, r(2, 3, 4, 4, 4), r(5, 3, 2, 2, 2), free=3),
    row(A.convolution.default, r(2, 4, 5), r(6, 4, 3), r(6), [1], [1], [1], False, [0], 1, free=3),
    row(A.convolution.default, r(2, 4, 5), r(4, 6, 3), r(6), [2], [1], [1], True, [0], 1, free=3),
    row(A.conv_transpose1d.default, r(2, 4, 5), r(4, 6, 3), r(6), free=3),
    row(A.conv_transpose2d.input, r(2, 4, 5, 5), r(4, 3, 2, 2), r(6), [2, 2], [0, 0], [0, 0], 2, free=4),
    row(A.conv_transpose3d.input, r(2, 4, 3, 3, 3), r(4, 3, 2, 2, 2), free=3),
    *_pools(),
    row(A._adaptive_avg_pool2d.default, r(2, 3, 4, 4), [1, 1], free=2),
    row(A._adaptive_avg_pool3d.default, r(2, 3, 4, 4, 4), [1, 1, 1], free=2),
    row(A.upsample_linear1d.vec, r(2, 3, 4), None, False, [2.0], free=2),
    row(A.upsample_bilinear2d.vec, r(2, 3, 4, 4), None, False, [2.0, 2.0], free=2),
    row(A.upsample_bicubic2d.vec, r(2, 3, 4, 4), None, False, [2.0, 2.0], free=2),
    row(A._upsample_bilinear2d_aa.vec, r(2, 3, 4, 4), [2, 2], False, None, free=2),
    row(A._upsample_bicubic2d_aa.vec, r(2, 3, 4, 4), [2, 2], False, None, free=2),
    row(A.upsample_trilinear3d.vec, r(2, 3, 4, 4, 4), None, False, [2.0, 2.0, 2.0], free=2),
    row(A.grid_sampler.default, r(2, 3, 4, 4), p(2, 5, 6, 2), 0, 0, False, free=4),
    row(A.grid_sampler_2d.default, r(2, 3, 4, 4), p(2, 5, 6, 2), 0, 0, False, free=4),
    row(A.grid_sampler_3d.default, r(2, 3, 4, 4, 4), p(2, 5, 6, 7, 3), 0, 0, False, free=5),
    row(A.affine_grid_generator.default, r(2, 2, 3), [2, 3, 4, 4], False, free=0),
    row(A.im2col.default, r(2, 3, 5, 5), [3, 3], [1, 1], [1, 1], [2, 2], free=2),
    row(A.im2col.default, r(3, 5, 5), [3, 3], [1, 1], [1, 1], [2, 2], free=1),
    row(A.col2im.default, r(2, 12, 16), [8, 8], [2, 2], [1, 1], [0, 0], [2, 2], free=2),
    row(A.max_unpool2d.default, r(2, 3, 2, 2), i(16, 2, 3, 2, 2), [4, 4], free=2),
    row(A.max_unpool3d.default, r(2, 3, 2, 2, 2), i(64, 2, 3, 2, 2, 2), [4, 4, 4], [2, 2, 2], [0, 0, 0], free=2),
    row(A.pixel_shuffle.default, r(2, 12, 3, 3), 2, free=2),
    row(A.pixel_unshuffle.default, r(2, 3, 4, 4), 2, free=2),
]  # fmt: skip
