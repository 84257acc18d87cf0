"""One sample call or more for every flow rule."""

from __future__ import annotations

import torch.ao.quantization.fx._decomposed  # noqa: F401  declares quantized_decomposed

from tests.axes.rows import (
    convolution,
    elementwise,
    indexing,
    norms,
    pieces,
    products,
    recurrent,
    spectral,
    views,
)

ROWS = [
    *elementwise.ROWS, *views.ROWS, *pieces.ROWS, *products.ROWS, *convolution.ROWS, *norms.ROWS, *spectral.ROWS,
    *indexing.ROWS, *recurrent.ROWS,
]  # fmt: skip
ABSENT = {
    "getitem": "every row with several results takes them one by one",
    "torchvision::deform_conv2d": "see test_regions.py",
    "torchvision::roi_align": "see test_regions.py",
    "torchvision::roi_pool": "as roi_align",
    "torchvision::nms": "pins everything",
    "torchvision::ps_roi_align": "pins everything",
    "torchvision::ps_roi_pool": "pins everything",
}
"""Rules without a row here, and why."""
