"""Blocks of the YOLO family, written from their published descriptions: split, concatenate, attend, predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Conv(nn.Module):
    """Convolution, batch norm, SiLU."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False)
        self.bn, self.act = nn.BatchNorm2d(c2), nn.SiLU() if act else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[n, c1, h, w] -> [n, c2, h/s, w/s]``."""
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Two convolutions with a residual sum."""

    def __init__(self, c: int, k: int = 3) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(c, c, k), Conv(c, c, k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        return x + self.cv2(self.cv1(x))


class C2f(nn.Module):
    """Two halves, one of which goes through a chain whose every step is concatenated."""

    def __init__(self, c1: int, c2: int, n: int = 2, inner: Callable[[int], nn.Module] = Bottleneck) -> None:
        super().__init__()
        self.c = c2 // 2
        self.cv1, self.cv2 = Conv(c1, 2 * self.c), Conv((2 + n) * self.c, c2)
        self.m = nn.ModuleList(inner(self.c) for _ in range(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[n, c1, h, w] -> [n, c2, h, w]``."""
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class C3k(nn.Module):
    """Two paths, one through bottlenecks, concatenated."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = Conv(c, c // 2), Conv(c, c // 2), Conv(c, c)
        self.m = nn.Sequential(Bottleneck(c // 2), Bottleneck(c // 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class Sppf(nn.Module):
    """Three poolings in a row, all concatenated."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m = Conv(c1, c1 // 2), Conv(c1 * 2, c2), nn.MaxPool2d(5, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[n, c1, h, w] -> [n, c2, h, w]``."""
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class Attention(nn.Module):
    """Attention over positions whose position encoding is a depthwise convolution of the values."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads, self.inner = heads, c // heads
        self.keys = self.inner // 2
        self.qkv = Conv(c, c + self.keys * heads * 2, act=False)
        self.proj, self.pe = Conv(c, c, act=False), Conv(c, c, 3, g=c, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        b, c, h, w = x.shape
        qkv = self.qkv(x).view(b, self.heads, self.keys * 2 + self.inner, h * w)
        q, k, v = qkv.split([self.keys, self.keys, self.inner], 2)
        weights = ((q.transpose(-2, -1) @ k) * self.keys**-0.5).softmax(-1)
        mixed = (v @ weights.transpose(-2, -1)).view(b, c, h, w)
        return self.proj(mixed + self.pe(v.reshape(b, c, h, w)))


class C2psa(nn.Module):
    """Half of the channels through attention and a feed-forward pair."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.c = c // 2
        self.cv1, self.cv2 = Conv(c, c), Conv(c, c)
        self.attn = Attention(self.c, 4)
        self.ffn = nn.Sequential(Conv(self.c, self.c * 2), Conv(self.c * 2, self.c, act=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        a, b = self.cv1(x).split((self.c, self.c), 1)
        b = b + self.attn(b)
        b = b + self.ffn(b)
        return self.cv2(torch.cat((a, b), 1))


class AreaAttention(nn.Module):
    """Attention inside four areas of the image, with a grouped convolution as its projection."""

    def __init__(self, c: int, heads: int, area: int = 4) -> None:
        super().__init__()
        self.heads, self.area = heads, area
        self.qkv, self.proj = Conv(c, c * 3, act=False), Conv(c, c, 1, g=2, act=False)
        self.pe = Conv(c, c, 7, g=c, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        b, c, h, w = x.shape
        n, d = h * w // self.area, c // self.heads
        qkv = self.qkv(x).flatten(2).transpose(1, 2).reshape(b * self.area, n, 3 * c)
        q, k, v = qkv.view(b * self.area, n, self.heads, d * 3).permute(0, 2, 3, 1).split([d, d, d], dim=2)
        weights = ((q.transpose(-2, -1) @ k) * d**-0.5).softmax(-1)
        mixed = (v @ weights.transpose(-2, -1)).permute(0, 3, 1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2)
        value = v.permute(0, 3, 1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2)
        return self.proj(mixed + self.pe(value))


class Detector(nn.Module):
    """A small detector: backbone of such blocks, a path-aggregation neck, and three decoupled heads."""

    def __init__(self, width: int = 16, classes: int = 20) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(Conv(3, w, 3, 2), Conv(w, 2 * w, 3, 2), C2f(2 * w, 2 * w))
        self.p3 = nn.Sequential(Conv(2 * w, 4 * w, 3, 2), C2f(4 * w, 4 * w, 2, C3k))
        self.p4 = nn.Sequential(Conv(4 * w, 8 * w, 3, 2), C2f(8 * w, 8 * w, 2, C3k))
        self.p5 = nn.Sequential(Conv(8 * w, 16 * w, 3, 2), Sppf(16 * w, 16 * w), C2psa(16 * w))
        self.up4, self.up3 = C2f(24 * w, 8 * w), C2f(12 * w, 4 * w)
        self.down4, self.n4 = Conv(4 * w, 4 * w, 3, 2), C2f(12 * w, 8 * w)
        self.up = nn.Upsample(scale_factor=2)
        self.boxes = nn.ModuleList(nn.Sequential(Conv(c, 32, 3), nn.Conv2d(32, 64, 1)) for c in (4 * w, 8 * w))
        self.classes = nn.ModuleList(
            nn.Sequential(Conv(c, c, 3, g=c), Conv(c, 32), nn.Conv2d(32, classes, 1)) for c in (4 * w, 8 * w)
        )
        self.register_buffer("bins", torch.arange(16.0))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes as expected distances over 16 bins, and class scores."""
        p3 = self.p3(self.stem(x))
        p4 = self.p4(p3)
        p5 = self.p5(p4)
        n4 = self.up4(torch.cat((self.up(p5), p4), 1))
        n3 = self.up3(torch.cat((self.up(n4), p3), 1))
        n4 = self.n4(torch.cat((self.down4(n3), n4), 1))
        boxes = torch.cat([head(f).flatten(2) for head, f in zip(self.boxes, (n3, n4), strict=True)], 2)
        scores = torch.cat([head(f).flatten(2) for head, f in zip(self.classes, (n3, n4), strict=True)], 2)
        b, _, n = boxes.shape
        bins: Any = self.bins
        distances = (boxes.view(b, 4, 16, n).softmax(2) * bins.view(1, 1, 16, 1)).sum(2)
        return distances, scores.sigmoid()


class Between(nn.Module):
    """A block between two convolutions, so that both of its sides may be cut."""

    def __init__(self, block: nn.Module, c1: int, c2: int) -> None:
        super().__init__()
        self.before, self.block, self.after = Conv(3, c1, 3), block, nn.Conv2d(c2, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[n, 3, h, w] -> [n, 5, h, w]``."""
        return self.after(self.block(self.before(x)))


def _case(make: Callable[[], nn.Module], size: int = 16) -> Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]:
    def build() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        torch.manual_seed(0)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        return model.eval(), (torch.rand(2, 3, size, size),)

    return build


BLOCKS = {
    "C2f": _case(lambda: Between(C2f(32, 48), 32, 48)),
    "C3k2": _case(lambda: Between(C2f(32, 48, 2, C3k), 32, 48)),
    "SPPF": _case(lambda: Between(Sppf(32, 48), 32, 48)),
    "C2PSA": _case(lambda: Between(C2psa(64), 64, 64)),
    "A2C2f": _case(lambda: Between(C2f(64, 64, 2, lambda c: AreaAttention(c, 2)), 64, 64)),
    "detector": _case(Detector, 64),
}
"""Modules with example inputs, by name."""
