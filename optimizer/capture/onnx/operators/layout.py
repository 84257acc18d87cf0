"""Operators that move, cut, join or pad blocks of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Value, numbers

_HUGE = 2**31 - 1
"""Bounds of a Slice beyond this mean "to the end"."""


@operator("Transpose")
def transpose(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Permute the axes; by default reverse them."""
    return x.permute(node.get("perm") or list(range(x.dim()))[::-1])


@operator("Concat")
def concat(node: Node, *inputs: torch.Tensor) -> torch.Tensor:
    """Join along ``axis`` (1 by default until opset 3, later required)."""
    return torch.cat(inputs, node.get("axis", 1))


@operator("Split")
def split_attribute(node: Node, x: torch.Tensor, sizes: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Until opset 12 the sizes are an attribute."""
    return _split(node, x, node.get("split"))


@operator("Split", since=13, static=(1,))
def split(node: Node, x: torch.Tensor, sizes: Value | None = None) -> tuple[torch.Tensor, ...]:
    """Sizes as an input, or equal parts of which the last may be smaller (``num_outputs``, opset 18)."""
    return _split(node, x, None if sizes is None else numbers(sizes, "the sizes of a Split"))


def _split(node: Node, x: torch.Tensor, sizes: Sequence[Any] | None) -> tuple[torch.Tensor, ...]:
    axis = node.get("axis", 0)
    if sizes is None:
        count = node.get("num_outputs", len(node.outputs))
        part = (x.shape[axis] + count - 1) // count
        sizes = [part] * (count - 1) + [x.shape[axis] - part * (count - 1)]
    return tuple(torch.split(x, list(sizes), axis))


@operator("Slice")
def slice_attribute(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Until opset 9 the bounds are attributes."""
    starts = node.get("starts")
    return _slice(x, starts, node.get("ends"), node.get("axes") or list(range(len(starts))), [1] * len(starts))


@operator("Slice", since=10, static=(1, 2, 3, 4))
def slice_(
    node: Node, x: torch.Tensor, starts: Value, ends: Value, axes: Value | None = None, steps: Value | None = None
) -> torch.Tensor:
    """Bounds, axes and steps as inputs; negative steps go backwards."""
    first = numbers(starts, "the start of a Slice")
    along = list(range(len(first))) if axes is None else numbers(axes, "the axes of a Slice")
    stride = [1] * len(first) if steps is None else numbers(steps, "the steps of a Slice")
    return _slice(x, first, numbers(ends, "the end of a Slice"), along, stride)


def _slice(
    x: torch.Tensor, starts: Sequence[Any], ends: Sequence[Any], axes: Sequence[int], steps: Sequence[int]
) -> torch.Tensor:
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            x, start, end, step = _backwards(x, start, end, axis, step)
        x = torch.ops.aten.slice.Tensor(x, axis, start, end, step)
    return x


def _backwards(x: torch.Tensor, start: Any, end: Any, axis: int, step: int) -> tuple[torch.Tensor, Any, Any, int]:
    """The same cut of the flipped tensor, where it goes forwards: position p is size - 1 - p there."""
    last = x.shape[axis] - 1

    def flipped(position: Any) -> Any:
        if isinstance(position, int) and position >= _HUGE:
            return 0
        if isinstance(position, int) and position <= -_HUGE:
            return last + 1
        return -1 - position if position < 0 else torch.sym_max(last - position, 0)

    return x.flip(axis), flipped(start), flipped(end), -step


@operator("Pad")
def pad_attribute(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Until opset 10 the amounts are an attribute."""
    return _pad(x, node.get("pads") or node.get("paddings"), list(range(x.dim())), node, node.get("value", 0.0))


@operator("Pad", since=11, static=(1, 2, 3))
def pad(
    node: Node, x: torch.Tensor, pads: Value, value: Value | None = None, axes: Value | None = None
) -> torch.Tensor:
    """Pad or, with negative amounts, cut; modes constant, reflect, edge and wrap (opset 19)."""
    fill = 0 if value is None else numbers(value, "the value of a Pad")[0]
    along = list(range(x.dim())) if axes is None else numbers(axes, "the axes of a Pad")
    return _pad(x, numbers(pads, "the amounts of a Pad"), along, node, fill)


def _pad(x: torch.Tensor, pads: Sequence[Any], axes: Sequence[int], node: Node, fill: Any) -> torch.Tensor:
    before = {axis % x.dim(): pads[i] for i, axis in enumerate(axes)}
    after = {axis % x.dim(): pads[i + len(axes)] for i, axis in enumerate(axes)}
    mode = node.get("mode", "constant")
    if mode == "constant":
        first = min(before, default=x.dim())
        amounts = [n for axis in range(x.dim() - 1, first - 1, -1) for n in (before.get(axis, 0), after.get(axis, 0))]
        return F.pad(x, amounts, value=fill)
    for axis in before:
        if not (_is_zero(before[axis]) and _is_zero(after[axis])):
            x = _pad_by_index(x, axis, before[axis], after[axis], mode)
    return x


def _is_zero(amount: Any) -> bool:
    return isinstance(amount, int) and amount == 0


def _pad_by_index(x: torch.Tensor, axis: int, before: Any, after: Any, mode: str) -> torch.Tensor:
    size = x.shape[axis]
    position = torch.arange(-before, size + after, device=x.device)
    if mode == "edge":
        position = position.clamp(0, size - 1)
    elif mode == "wrap":
        position = position.remainder(size)
    else:
        period = torch.sym_max(2 * (size - 1), 1)
        position = (size - 1) - (position.remainder(period) - (size - 1)).abs()
    return x.index_select(axis, position)


@operator("CenterCropPad", since=18, static=(1,))
def center_crop_pad(node: Node, x: torch.Tensor, target: Value) -> torch.Tensor:
    """Cut or zero-pad around the centre to these sizes; the odd item goes to the end."""
    sizes = numbers(target, "the shape of a CenterCropPad")
    for axis, size in zip(node.get("axes") or range(x.dim()), sizes, strict=True):
        missing = size - x.shape[axis]
        before = -(-missing // 2) if missing < 0 else missing // 2
        amounts = [0, 0] * (x.dim() - 1 - axis % x.dim()) + [before, missing - before]
        x = F.pad(x, amounts)
    return x


@operator("DepthToSpace")
def depth_to_space(node: Node, x: torch.Tensor) -> torch.Tensor:
    """(n, c·b², h, w) to (n, c, h·b, w·b); in mode CRD this is PyTorch's pixel shuffle."""
    block = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    blocks = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, c // block**2, h * block, w * block)


@operator("SpaceToDepth")
def space_to_depth(node: Node, x: torch.Tensor) -> torch.Tensor:
    """(n, c, h·b, w·b) to (n, b²·c, h, w), or in mode CRD (n, c·b², h, w)."""
    block = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(x, block)
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * block**2, h // block, w // block)


@operator("ReverseSequence")
def reverse_sequence(node: Node, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Reverse the first ``lengths[b]`` steps of each batch item."""
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    steps = torch.arange(x.shape[time], device=x.device)
    ends = lengths.unsqueeze(1)
    source = torch.where(steps < ends, ends - 1 - steps, steps)
    rows = torch.arange(x.shape[batch], device=x.device).unsqueeze(1)
    return x.movedim((batch, time), (0, 1))[rows, source].movedim((0, 1), (batch, time))


@operator("Trilu", since=14, static=(1,))
def trilu(node: Node, x: torch.Tensor, k: Value | None = None) -> torch.Tensor:
    """The upper or lower triangle of the last two axes, from diagonal ``k``."""
    diagonal = 0 if k is None else numbers(k, "the diagonal of a Trilu")[0]
    return x.triu(diagonal) if node.get("upper", 1) else x.tril(diagonal)
