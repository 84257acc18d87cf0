"""Blocks of different operators: what one costs beside others, where its inputs lie in no cache of its own."""

from __future__ import annotations

from collections.abc import Iterator

from tersor.cost.launches import Launch
from tersor.targets.probes import Probe

Block = tuple[Probe, ...]
_TINY = ((16, 64), (17, 128), (50, 64), (65, 96))
"""Tokens and widths at which starting a kernel takes longer than the kernel."""


def blocks() -> list[Block]:
    """The blocks of which small convolutional networks and transformers are made."""
    return [*_inverted(), *_scaled(), *_bottlenecks(), *_mixers(), *_attentions()]


def launches_of(block: Block, blocked: bool) -> list[Launch]:
    """What a block runs.

    Args:
        block: its operators.
        blocked: whether convolutions work on blocks of channels, and what scales channels does not.
    """
    return [launch for part in block for launch in _launches(part, blocked)]


def _launches(part: Probe, blocked: bool) -> Iterator[Launch]:
    if part.kind == "scale":
        moved = 8.0 * part.rows**2 * part.a
        convert = Launch("convert", ("convert",), "float32", moved=moved, n=int(moved / 8))
        scale = Launch("elementwise", ("scale",), "float32", moved=moved, m=part.a, n=part.rows**2)
        mean = Launch("reduction", ("mean",), "float32", moved=moved / 2, m=part.a, n=part.rows**2)
        yield from (mean, convert, scale, convert) if blocked else (mean, scale)
        return
    if part.kind != "heads":
        yield part.launch()
        return
    elements = float(part.rows * part.groups * part.a)
    turned = Launch("permute", ("permute",), "float32", moved=8.0 * elements, m=part.rows * part.groups, n=part.a)
    yield turned
    yield Probe("attention", part.a, part.a, part.rows, groups=part.groups).launch()
    yield turned


def _inverted() -> Iterator[Block]:
    for width, side, window in ((16, 112, 3), (24, 56, 3), (32, 28, 5), (64, 14, 3), (96, 14, 5), (160, 7, 3)):
        wide = 6 * width
        yield (
            Probe("pointwise_conv", width, wide, side),
            Probe("depthwise", wide, wide, side, window, wide),
            Probe("pointwise_conv", wide, width, side),
        )


def _scaled() -> Iterator[Block]:
    for width, side in ((32, 112), (96, 56), (240, 28), (480, 14), (672, 7)):
        yield (Probe("pointwise_conv", width, width, side), Probe("scale", width, width, side))


def _bottlenecks() -> Iterator[Block]:
    for width, side in ((64, 56), (128, 28), (256, 56), (512, 28), (1024, 14), (2048, 7)):
        yield (
            Probe("pointwise_conv", width, width // 4, side),
            Probe("conv", width // 4, width // 4, side, 3),
            Probe("pointwise_conv", width // 4, width, side),
        )


def _mixers() -> Iterator[Block]:
    for rows, width in (
        (197, 192),
        (49, 384),
        (784, 96),
        (128, 384),
        (32, 384),
        (64, 768),
        (784, 64),
        (3136, 32),
        *_TINY,
    ):
        yield (
            Probe("norm", width, width, rows),
            Probe("linear", width, 4 * width, rows),
            Probe("function", 4 * width, 4 * width, rows),
            Probe("linear", 4 * width, width, rows),
            Probe("add", width, width, rows),
        )


def _attentions() -> Iterator[Block]:
    for rows, heads, width in (
        (197, 3, 64),
        (128, 12, 32),
        (49, 6, 32),
        (64, 12, 64),
        (784, 2, 32),
        (197, 6, 64),
        (16, 4, 16),
        (32, 4, 16),
        (65, 3, 32),
    ):
        whole = heads * width
        yield (
            Probe("norm", whole, whole, rows),
            Probe("linear", whole, whole, rows),
            Probe("heads", width, width, rows, groups=heads),
            Probe("linear", whole, whole, rows),
            Probe("add", whole, whole, rows),
        )
