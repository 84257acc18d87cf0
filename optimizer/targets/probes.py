"""Which single operators are measured on a machine, and how large: what small and middle-sized networks are made of."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from tersor.cost.launches import Launch

LARGEST = 0.5e9
"""Operations of the largest product that is measured; some milliseconds on two cores."""
_SIDES = (7, 14, 28, 56, 112)


@dataclass(frozen=True)
class Probe:
    """One operator at one size. Channels alternate from operator to operator of a chain: a to b, b to a.

    Attributes:
        kind: as in `tersor.cost.kinds.kind`, or of what is no product one of `KINDS`.
        a, b: channels of a convolution, widths of a layer or head; columns of what works on rows.
        rows: of a layer or of tokens; of an image its height and width.
        window: side of a convolution's kernel.
        groups: of a convolution, or heads.
        dtype: "float32" or "int8".
        stride: of a convolution; ``rows`` is that of its result.
    """

    kind: str
    a: int
    b: int
    rows: int
    window: int = 1
    groups: int = 1
    dtype: str = "float32"
    stride: int = 1

    @property
    def flops(self) -> float:
        """Of products, both of a pair alike."""
        if self.kind in ("conv", "pointwise_conv", "grouped_conv", "depthwise"):
            return 2.0 * self.rows**2 * self.window**2 * self.a * self.b / self.groups
        if self.kind == "linear":
            return 2.0 * self.rows * self.a * self.b
        return 4.0 * self.groups * self.rows**2 * self.a if self.kind == "attention" else 0.0

    def launch(self) -> Launch:
        """What one operator of the chain does."""
        size = 1.0 if self.dtype == "int8" else 4.0
        if self.kind in ("conv", "pointwise_conv", "grouped_conv", "depthwise"):
            m, n = self.rows**2, self.b // self.groups
            k = self.a // self.groups * self.window**2
            moved, weights = size * m * (self.a * self.stride**2 + self.b), size * k * self.b
            return Launch(
                self.kind, (self.kind,), self.dtype, self.flops, moved, weights, self.groups, m, n, k, self.window**2,
                self.stride,
            )  # fmt: skip
        if self.kind == "linear":
            moved, weights = size * self.rows * (self.a + self.b), size * self.a * self.b
            return Launch("linear", ("linear",), self.dtype, self.flops, moved, weights, 1, self.rows, self.b, self.a)
        if self.kind == "attention":
            moved = 4.0 * 4 * self.groups * self.rows * self.a
            return Launch(
                "attention",
                ("attention",),
                "float32",
                self.flops,
                moved,
                0.0,
                self.groups,
                self.rows,
                self.rows,
                self.a,
            )
        return _on_rows(self)


def _on_rows(probe: Probe) -> Launch:
    kind, elements = KINDS[probe.kind], float(probe.rows * probe.a)
    read = 3.0 if probe.kind in ("add", "skip_norm") else 2.0
    functions = elements if probe.kind in ("function", "gate") else 0.0
    if probe.kind == "permute":
        last = probe.rows if probe.b == 1 else 1
        return Launch(
            kind, (kind,), "float32", moved=8.0 * elements, m=probe.rows * probe.a // probe.b, n=probe.b, groups=last
        )
    if probe.kind == "dequantize":
        return Launch(kind, (kind,), "float32", moved=5.0 * elements, m=probe.rows, n=probe.a)
    if probe.kind in ("pool", "mean"):
        moved = 4.0 * elements * (1.0 + (1.0 if probe.kind == "pool" else 1.0 / probe.a))
        return Launch(kind, (kind,), "float32", moved=moved, m=probe.rows, n=probe.a, window=probe.window**2)
    return Launch(kind, (kind,), "float32", moved=4.0 * read * elements, m=probe.rows, n=probe.a, functions=functions)


KINDS = {
    "add": "elementwise", "function": "elementwise", "gate": "elementwise", "permute": "permute", "pool": "pool",
    "mean": "reduction", "join": "move", "softmax": "softmax", "norm": "norm",
    "skip_norm": "skip_norm", "dequantize": "dequantize",
}  # fmt: skip
"""The kind of launch of each probe that is no product."""


def probes() -> list[Probe]:
    """Everything that is measured."""
    return [*_convolutions(), *_layers(), *_on_tokens(), *_plain()]


def _convolutions() -> Iterator[Probe]:
    for dtype in ("float32", "int8"):
        few = dtype == "int8"
        for channels, side in itertools.product((16, 32, 64, 128, 256, 512), _SIDES[:: 2 if few else 1]):
            yield from _affordable(Probe("conv", channels, channels, side, 3, 1, dtype))
        wide: tuple[tuple[int, int], ...] = (
            (16, 64),
            (24, 144),
            (64, 64),
            (64, 256),
            (96, 576),
            (160, 960),
            (256, 512),
            (512, 2048),
        )
        wide += () if few else ((8, 48), (8, 96), (16, 96), (24, 24), (32, 192), (64, 384), (16, 256))
        for (a, b), side in itertools.product(wide, _SIDES[:: 2 if few else 1]):
            yield from _affordable(Probe("pointwise_conv", a, b, side, 1, 1, dtype))
        for channels, side, window in itertools.product((32, 128, 512), _SIDES[:: 2 if few else 1], (3, 5, 7)):
            if channels * side**2 <= 1 << 20 and not (few and window > 3):
                yield Probe("depthwise", channels, channels, side, window, channels, dtype)
    for (channels, per_group), side in itertools.product(((64, 8), (128, 16), (256, 8), (256, 32)), (7, 14, 28, 56)):
        yield from _affordable(Probe("grouped_conv", channels, channels, side, 3, channels // per_group))
    for channels, side, window in ((64, 56, 5), (128, 14, 5), (32, 28, 7)):
        yield from _affordable(Probe("conv", channels, channels, side, window))
    for channels, side in ((58, 28), (116, 14), (30, 56)):
        yield Probe("conv", channels, channels, side, 3)
        yield Probe("pointwise_conv", channels, channels, side)
        yield Probe("depthwise", channels + channels % 4, channels + channels % 4, side, 3, channels + channels % 4)
        yield Probe("depthwise", channels, channels, side, 3, channels)
    yield from _strided()


def _strided() -> Iterator[Probe]:
    """Convolutions that make an image smaller, those that read colours among them."""
    for channels, side, window, stride in (
        (16, 112, 3, 2), (32, 112, 3, 2), (64, 112, 7, 2), (40, 56, 4, 4), (96, 56, 4, 4), (64, 55, 11, 4),
        (192, 14, 16, 16), (384, 14, 16, 16), (32, 224, 3, 1),
    ):  # fmt: skip
        yield Probe("conv", 3, channels, side, window, stride=stride)
    for a, b, side in ((32, 64, 56), (64, 128, 28), (128, 256, 14), (256, 512, 7)):
        yield Probe("conv", a, b, side, 3, stride=2)
        yield Probe("pointwise_conv", a, b, side, 1, stride=2)
    for channels, side, window in ((96, 56, 3), (144, 28, 5), (240, 14, 3), (576, 7, 5)):
        yield Probe("depthwise", channels, channels, side, window, channels, stride=2)


def _layers() -> Iterator[Probe]:
    widths = ((32, 32), (64, 64), (64, 256), (192, 192), (192, 768), (384, 1536), (768, 768), (768, 3072), (32, 256))
    both = sorted({pair for a, b in widths for pair in ((a, b), (b, a))})
    for (a, b), rows in itertools.product(both, (1, 8, 32, 128, 512, 3136)):
        yield from _affordable(Probe("linear", a, b, rows))
    for (a, b), rows in itertools.product(((64, 256), (192, 768), (768, 192), (768, 768)), (1, 32, 197)):
        yield from _affordable(Probe("linear", a, b, rows, dtype="int8"))
    yield Probe("linear", 1024, 4096, 1)


def _on_tokens() -> Iterator[Probe]:
    for (heads, width), rows in itertools.product(((3, 64), (12, 32), (12, 64), (4, 16)), (16, 49, 128, 197)):
        yield Probe("attention", width, width, rows, groups=heads)
    yield Probe("attention", 32, 32, 784, groups=2)
    yield Probe("attention", 64, 64, 577, groups=3)
    for rows, columns in itertools.product((16, 128, 784, 3136), (32, 96, 192, 768)):
        yield Probe("norm", columns, columns, rows)
    for rows, columns in itertools.product((16, 64, 196, 784), (64, 192, 384, 768)):
        yield Probe("skip_norm", columns, columns, rows)
    for rows, columns in ((64, 16), (588, 49), (1536, 128), (591, 197)):
        yield Probe("softmax", columns, columns, rows)


def _plain() -> Iterator[Probe]:
    yield Probe("add", 16, 16, 1)
    for sort, elements in itertools.product(("add", "function"), (10, 13, 16, 18, 20)):
        yield Probe(sort, 64, 64, 2 ** (elements - 6))
    yield Probe("gate", 64, 64, 4096)
    yield Probe("gate", 64, 64, 16384)
    for sort, (columns, rows) in itertools.product(
        ("pool", "mean"), ((49, 256), (196, 256), (784, 128), (3136, 64), (12544, 32))
    ):
        yield Probe(sort, columns, columns, rows, 3 if sort == "pool" else 1)
    for elements, run, last in itertools.product((12, 15, 18), (1, 32), (4, 64)):
        yield Probe("permute", 2**elements // last, run, last)
    for rows, columns in ((192, 192), (768, 192), (384, 1536)):
        yield Probe("dequantize", columns, columns, rows)
    for elements in (12, 15, 18, 20):
        yield Probe("join", 64, 64, 2 ** (elements - 6))


def _affordable(probe: Probe) -> Iterator[Probe]:
    if probe.flops <= LARGEST:
        yield probe
