"""torchvision's operators, which may be there without kernels, against references in PyTorch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.models_zoo.torchvision_ops import ensure
from tests.axes.one_node import Row, analysed, compare, drawn, row
from tests.axes.rows.samples import p, r

if importlib.util.find_spec("torchvision") is None:
    pytest.skip("torchvision declares these operators", allow_module_level=True)
ensure()

T = torch.ops.torchvision


def deformed(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, *rest: int | bool) -> Tensor:
    """A 3x3 kernel of stride 1 with padding 1: sample where each tap has moved to, then multiply."""
    groups, moved, use_mask = int(rest[6]), int(rest[7]), bool(rest[8])
    n, c, h, w = x.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    shift = offset.view(n, moved, 9, 2, h, w)
    strength = mask.view(n, moved, 9, h, w) if use_mask else torch.ones(n, moved, 9, h, w, dtype=x.dtype)
    taps = []
    for tap in range(9):
        y = rows + tap // 3 - 1 + shift[:, :, tap, 0]
        z = columns + tap % 3 - 1 + shift[:, :, tap, 1]
        grid = torch.stack([2 * z / (w - 1) - 1, 2 * y / (h - 1) - 1], -1).flatten(0, 1)
        image = x.reshape(n * moved, c // moved, h, w)
        sampled = F.grid_sample(image, grid.to(x.dtype), align_corners=True).view(n, moved, c // moved, h, w)
        taps.append((sampled * strength[:, :, tap, None]).reshape(n, c, 1, h, w))
    columns_of = torch.cat(taps, 2).reshape(n, groups, c // groups, 9, h, w)
    kernel = weight.reshape(groups, -1, c // groups, 9)
    return torch.einsum("ngckhw,gock->ngohw", columns_of, kernel).reshape(n, -1, h, w) + bias[:, None, None]


def aligned(x: Tensor, rois: Tensor, scale: float, height: int, width: int, ratio: int, half: bool) -> Tensor:
    """One sample in the middle of each bin is enough to tell channels apart."""
    made = []
    for box in rois:
        image = x[int(box[0])]
        ys = (box[2] + (box[4] - box[2]) * (torch.arange(height) + 0.5) / height).long().clamp(0, x.shape[2] - 1)
        xs = (box[1] + (box[3] - box[1]) * (torch.arange(width) + 0.5) / width).long().clamp(0, x.shape[3] - 1)
        made.append(image[:, ys][:, :, xs])
    return torch.stack(made)


@pytest.fixture(autouse=True)
def references() -> Iterator[None]:
    with torch.library._scoped_library("torchvision", "IMPL") as library:
        for name, function in (("deform_conv2d", deformed), ("roi_align", aligned)):
            if not torch._C._dispatch_has_kernel_for_dispatch_key(f"torchvision::{name}", "CPU"):
                library.impl(name, function, "CPU")
        yield


BOXES = torch.tensor([[0.0, 0.0, 0.0, 3.0, 3.0], [1.0, 1.0, 1.0, 4.0, 4.0], [0.0, 2.0, 0.0, 4.0, 2.0]]).double()


def rows() -> list[Row]:
    one = [1, 1, 1, 1, 1, 1]
    return [
        row(T.deform_conv2d.default, r(2, 4, 5, 5), r(6, 4, 3, 3), r(2, 18, 5, 5), p(2, 9, 5, 5), r(6), *one, 1, 1,
            True, free=3),
        row(T.deform_conv2d.default, r(2, 8, 5, 5), r(6, 4, 3, 3), r(2, 36, 5, 5), p(2, 1, 1, 1), r(6), *one, 2, 2,
            False, free=5),
        row(T.roi_align.default, r(2, 3, 5, 5), BOXES, 1.0, 2, 2, 1, False, free=2),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(3))
def test_cutting_before_is_cutting_after(number: int) -> None:
    case = rows()[number]
    generator = torch.Generator().manual_seed(0)
    made = analysed(case)
    assert not made.refused
    assert len(made.free) == case.free, [(axis, axis.pin) for axis in made.free]
    for chance in (1.0, 0.7, 0.4):
        compare(made, drawn(made.free, chance, generator), generator)
