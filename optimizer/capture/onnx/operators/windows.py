"""Geometry of sliding windows, shared by convolution and pooling: strides, dilations, padding, ceil mode.

Spatial sizes may be SymInts; whatever depends on them is then a SymInt too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tersor.capture.onnx.registry import Node
from tersor.capture.onnx.values import Opaque


@dataclass(frozen=True)
class Windows:
    """Windows over the spatial dimensions, one item per dimension.

    Attributes:
        begin, end: padding before and after (int or SymInt).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[Any, ...]
    end: tuple[Any, ...]

    @property
    def rank(self) -> int:
        """The number of spatial dimensions."""
        return len(self.kernel)

    @property
    def spans(self) -> tuple[int, ...]:
        """How many positions each window reaches over, dilation included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def symmetric(self) -> bool:
        """Whether both paddings are known and equal, so that torch can do the padding itself."""
        return all(isinstance(p, int) for p in (*self.begin, *self.end)) and self.begin == self.end

    @property
    def unpadded(self) -> bool:
        """Whether no padding is asked for."""
        return self.symmetric and not any(self.begin)


def windows(node: Node, sizes: Sequence[Any], kernel: Sequence[int]) -> Windows:
    """The windows that the node's attributes describe, over spatial dimensions of these sizes."""
    rank = len(sizes)
    if not 1 <= rank <= 3:
        raise Opaque(f"windows over {rank} spatial dimensions")
    strides = tuple(node.get("strides") or [1] * rank)
    dilations = tuple(node.get("dilations") or [1] * rank)
    auto = node.get("auto_pad", "NOTSET")
    if auto == "NOTSET" or not auto:
        pads = tuple(node.get("pads") or [0] * (2 * rank))
        return Windows(tuple(kernel), strides, dilations, pads[:rank], pads[rank:])
    plain = Windows(tuple(kernel), strides, dilations, (0,) * rank, (0,) * rank)
    if auto == "VALID":
        return plain
    totals = [_same_padding(*each) for each in zip(sizes, plain.spans, strides, strict=True)]
    return split_padding(plain, totals, upper=auto == "SAME_UPPER")


def split_padding(plain: Windows, totals: Sequence[Any], *, upper: bool) -> Windows:
    """The same windows with each total padding halved; an odd rest goes to the end where ``upper``."""
    less = tuple(total // 2 for total in totals)
    more = tuple(total - half for total, half in zip(totals, less, strict=True))
    begin, end = (less, more) if upper else (more, less)
    return Windows(plain.kernel, plain.strides, plain.dilations, begin, end)


def _same_padding(size: Any, span: int, stride: int) -> Any:
    if stride == 1:
        return span - 1
    total = ((size + stride - 1) // stride - 1) * stride + span - size
    return total if span >= stride else torch.sym_max(total, 0)


def ceil_ends(w: Windows, sizes: Sequence[Any]) -> tuple[Any, ...]:
    """End padding with which floor mode yields the windows of ceil mode: none starts in the end padding.

    >>> w = Windows((2,), (2,), (1,), (0,), (0,))
    >>> ceil_ends(w, [3])
    (1,)
    """
    ends = []
    for size, span, stride, begin, end in zip(sizes, w.spans, w.strides, w.begin, w.end, strict=True):
        count = (size + begin + end - span + stride - 1) // stride + 1
        inside = (size + begin + stride - 1) // stride
        ends.append((torch.sym_min(count, inside) - 1) * stride + span - size - begin)
    return tuple(ends)


def pad(x: Tensor, begin: Sequence[Any], end: Sequence[Any], value: float = 0.0) -> Tensor:
    """The last dimensions padded; negative amounts crop."""
    if all(isinstance(p, int) and p == 0 for p in (*begin, *end)):
        return x
    amounts = [p for pair in zip(reversed(begin), reversed(end), strict=True) for p in pair]
    return F.pad(x, amounts, value=value)
