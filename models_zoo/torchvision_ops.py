"""Makes torchvision importable where its compiled operators do not fit the installed PyTorch.

The published torchvision is linked against CUDA, so that under a CPU build of PyTorch even ``import torchvision``
fails for want of operators; timm and transformers import it and fail with it. Here the operators' schemas are
declared, and non-maximum suppression gets an implementation in PyTorch (``roi_align`` has one in torchvision itself).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROI = "float spatial_scale, SymInt pooled_height, SymInt pooled_width"
ROI_BACK = f"{ROI}, SymInt batch_size, SymInt channels, SymInt height, SymInt width"
DEFORM = (
    "SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, "
    "SymInt groups, SymInt offset_groups, bool use_mask"
)
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align(Tensor input, Tensor rois, {ROI}, int sampling_ratio, bool aligned) -> Tensor",
    f"qroi_align(Tensor input, Tensor rois, {ROI}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_align_backward(Tensor grad, Tensor rois, {ROI_BACK}, int sampling_ratio, bool aligned) -> Tensor",
    f"roi_pool(Tensor input, Tensor rois, {ROI}) -> (Tensor, Tensor)",
    f"_roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, {ROI_BACK}) -> Tensor",
    f"ps_roi_align(Tensor input, Tensor rois, {ROI}, int sampling_ratio) -> (Tensor, Tensor)",
    f"_ps_roi_align_backward(Tensor grad, Tensor rois, Tensor channel_mapping, {ROI}, int sampling_ratio, "
    "SymInt batch_size, SymInt channels, SymInt height, SymInt width) -> Tensor",
    f"ps_roi_pool(Tensor input, Tensor rois, {ROI}) -> (Tensor, Tensor)",
    f"_ps_roi_pool_backward(Tensor grad, Tensor rois, Tensor channel_mapping, {ROI_BACK}) -> Tensor",
    f"deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, {DEFORM}) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, "
    f"{DEFORM}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor",
)


@functools.cache
def ensure() -> None:
    """Declares the operators if torchvision is installed without usable ones; does nothing otherwise."""
    spec = importlib.util.find_spec("torchvision")
    declared = hasattr(torch.ops.torchvision, "nms")
    if declared or spec is None or spec.origin is None or _loads(Path(spec.origin).parent):
        return
    library = _library()
    for schema in SCHEMAS:
        library.define(schema)
    library.impl("nms", nms, "CPU")
    boxes = importlib.import_module("torchvision.ops.boxes")
    # It asks for the compiled library by this function, although the operator is now there.
    boxes._assert_has_ops = lambda: None  # type: ignore[attr-defined]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices, best score first, of the boxes (N, 4) that overlap no better one by more than the threshold.

    >>> boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1.9], [5, 5, 6, 6]])
    >>> nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist()
    [1, 2]
    """
    order = scores.argsort(descending=True, stable=True)
    ranked = boxes[order]
    area = (ranked[:, 2:] - ranked[:, :2]).prod(1)
    alive = torch.ones(len(order), dtype=torch.bool)
    for place in range(len(order)):
        if not alive[place]:
            continue
        low = torch.maximum(ranked[place, :2], ranked[place + 1 :, :2])
        high = torch.minimum(ranked[place, 2:], ranked[place + 1 :, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        alive[place + 1 :] &= shared <= iou_threshold * (area[place] + area[place + 1 :] - shared)
    return order[alive]


@functools.cache
def _library() -> Any:
    # Kept for the life of the process: the operators go when this object does.
    return torch.library.Library("torchvision", "FRAGMENT")


def _loads(folder: Path) -> bool:
    """Whether torchvision's compiled operators can be loaded."""
    for path in (*folder.glob("_C.so"), *folder.glob("_C.*.so"), *folder.glob("_C*.pyd"), *folder.glob("_C.dylib")):
        try:
            torch.ops.load_library(path)
        except (ImportError, OSError):
            continue
        return True
    return False
