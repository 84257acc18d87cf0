"""Convolutions as operators: their names, and the window of the input that each output sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx
from torch.nn import functional as F

from tersor.rewrite_values import arguments, key

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
EVERY = (*CONVOLUTIONS, *TRANSPOSED, "convolution")
"""The general operator ``convolution`` says by an argument whether it is transposed."""


def is_transposed(node: fx.Node) -> bool:
    """Whether a convolution spreads positions of its input over its output."""
    return bool(arguments(node).get("transposed")) or key(node) in TRANSPOSED


@dataclass(frozen=True)
class Window:
    """How a convolution reads its input: one entry per spatial dimension.

    Attributes:
        kernel, stride, dilation: as in PyTorch.
        padding: amounts before the first and after the last position.
        groups: of channels.
        transposed: whether positions of the input are spread over the output instead.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int = 1
    transposed: bool = False

    @property
    def spatial(self) -> int:
        """How many spatial dimensions there are."""
        return len(self.kernel)

    def views(self, value: Tensor) -> Tensor:
        """``[N, C, *space]`` (or without N) as overlapping windows ``[N, *positions, C, *kernel]``, without a copy."""
        value = value if value.dim() == self.spatial + 2 else value[None]
        value = F.pad(value, [amount for pair in reversed(self.padding) for amount in pair])
        for axis, (size, step, gap) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            value = value.unfold(2 + axis, (size - 1) * gap + 1, step)[..., ::gap]
        return value.movedim(1, 1 + self.spatial)


def window(node: fx.Node) -> Window | None:
    """The window of a convolution; None for any other node."""
    if key(node) not in EVERY:
        return None
    given = arguments(node)
    kernel = tuple(int(size) for size in given["weight"].meta["val"].shape[2:])
    stride, dilation = (_each(given[name], len(kernel)) for name in ("stride", "dilation"))
    padding = _padding(given["padding"], kernel, dilation)
    return Window(kernel, stride, dilation, padding, int(given["groups"]), is_transposed(node))


def _padding(given: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    if given == "same":
        whole = [gap * (size - 1) for gap, size in zip(dilation, kernel, strict=True)]
        return tuple((amount // 2, amount - amount // 2) for amount in whole)
    return tuple((amount, amount) for amount in _each(0 if given == "valid" else given, len(kernel)))


def _each(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    found = (value,) if isinstance(value, int) else tuple(value)
    return found * count if len(found) == 1 else found
