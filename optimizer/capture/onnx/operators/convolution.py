"""Convolutions: plain, transposed, causal with state, and the inverse of im2col."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tersor.capture.onnx.operators.windows import Windows, pad, split_padding, windows
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Opaque, Value, numbers

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, w: Windows, groups: int) -> Tensor:
    """Convolution over 1 to 3 spatial dimensions with any padding."""
    function = _CONVOLUTIONS[w.rank]
    if w.symmetric:
        return function(x, weight, bias, w.strides, w.begin, w.dilations, groups)
    return function(pad(x, w.begin, w.end), weight, bias, w.strides, 0, w.dilations, groups)


@operator("Conv")
def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    w = windows(node, x.shape[2:], weight.shape[2:])
    return convolve(x, weight, bias, w, node.get("group", 1))


@operator("ConvTranspose")
def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    sizes, kernel = x.shape[2:], tuple(weight.shape[2:])
    rank = len(sizes)
    extra = tuple(node.get("output_padding") or [0] * rank)
    w = _transposed_windows(node, sizes, kernel, extra)
    return _transposed(x, weight, bias, w, extra, node.get("group", 1))


def _transposed_windows(node: Node, sizes: Sequence[Any], kernel: tuple[int, ...], extra: tuple[int, ...]) -> Windows:
    rank, auto = len(sizes), node.get("auto_pad", "NOTSET")
    given = node.get("output_shape")
    if not 1 <= rank <= 3:
        raise Opaque(f"a transposed convolution over {rank} spatial dimensions")
    if not given and not auto.startswith("SAME"):
        return windows(node, sizes, kernel)
    zeros, ones = (0,) * rank, [1] * rank
    strides, dilations = tuple(node.get("strides") or ones), tuple(node.get("dilations") or ones)
    plain = Windows(kernel, strides, dilations, zeros, zeros)
    # SAME wants `size * stride`; the padding that gives it does not depend on the size.
    totals = [span + o - stride for span, o, stride in zip(plain.spans, extra, strides, strict=True)]
    if given:
        totals = [t + s * n - g for t, s, n, g in zip(totals, strides, sizes, given[-rank:], strict=True)]
    elif min(totals) < 0:
        raise Opaque("auto_pad SAME with strides beyond the kernel: runtimes disagree")
    return split_padding(plain, totals, upper=auto == "SAME_UPPER")


def _transposed(
    x: Tensor, weight: Tensor, bias: Tensor | None, w: Windows, extra: tuple[int, ...], groups: int
) -> Tensor:
    function = _TRANSPOSED[w.rank]
    known = all(isinstance(p, int) for p in (*w.begin, *w.end))
    if known and min(w.begin) >= 0:
        # torch pads both sides alike; what the end lacks is output padding, which torch bounds.
        after = [o + b - e for o, b, e in zip(extra, w.begin, w.end, strict=True)]
        limits = [max(s, d) for s, d in zip(w.strides, w.dilations, strict=True)]
        if all(0 <= a < limit for a, limit in zip(after, limits, strict=True)):
            return function(x, weight, bias, w.strides, w.begin, after, groups, w.dilations)
    y = function(x, weight, None, w.strides, 0, 0, groups, w.dilations)
    y = pad(y, [-b for b in w.begin], [o - e for o, e in zip(extra, w.end, strict=True)])
    return y if bias is None else y + bias.reshape(-1, *[1] * w.rank)


@operator("CausalConvWithState")
def _causal_conv(
    node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None, past: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    reach = weight.shape[-1] - 1
    padded = F.pad(x, (reach, 0)) if past is None else torch.cat([past, x], -1)
    y = F.conv1d(padded, weight, bias, groups=x.shape[1])
    if node.get("activation", "none") in ("silu", "swish"):
        y = F.silu(y)
    return y, padded.narrow(-1, padded.shape[-1] - reach, reach)


@operator("Col2Im", static=(1, 2))
def _col2im(node: Node, x: Tensor, image_shape: Value, block_shape: Value) -> Tensor:
    image, block = numbers(image_shape, "the image shape"), numbers(block_shape, "the block shape")
    if not x.is_floating_point() or not all(isinstance(k, int) for k in block):
        raise Opaque("blocks of integers, or of unknown shape")
    w = windows(node, image, block)
    if w.rank == 2 and w.symmetric:
        return F.fold(x, tuple(image), tuple(block), w.dilations, w.begin, w.strides)
    # A transposed convolution with one-hot kernels adds every block up at its place.
    counts = [
        (n + b + e - span) // s + 1 for n, b, e, span, s in zip(image, w.begin, w.end, w.spans, w.strides, strict=True)
    ]
    size = math.prod(block)
    columns = x.reshape(-1, size, *counts)
    kernel = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *block)
    y = _TRANSPOSED[w.rank](columns, kernel, None, w.strides, 0, 0, 1, w.dilations)
    covered = [s * (c - 1) + span for s, c, span in zip(w.strides, counts, w.spans, strict=True)]
    ends = [n - (c - b) for n, c, b in zip(image, covered, w.begin, strict=True)]
    return pad(y, [-b for b in w.begin], ends).reshape(x.shape[0], -1, *image)
