"""Building blocks of random networks: the ways in which published networks tie channels together."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Block = Callable[[int, Random], tuple[nn.Module, int]]
"""From input channels to a module on ``[N, C, H, W]`` that keeps height and width, and its output channels."""


class Lambda(nn.Module):
    """A function over named sub-modules."""

    def __init__(self, function: Callable[..., Tensor], **children: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def width(random: Random) -> int:
    return 4 * random.randint(1, 3)


def norm(channels: int, random: Random) -> nn.Module:
    made = random.choice(
        [nn.BatchNorm2d(channels), nn.GroupNorm(2, channels), nn.InstanceNorm2d(channels, affine=True)]
    )
    if isinstance(made, nn.BatchNorm2d):
        made.running_mean = torch.randn(channels)
        made.running_var = torch.rand(channels) + 0.5
    return made


def activation(random: Random) -> nn.Module:
    return random.choice([nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Tanh()])


def conv(channels: int, random: Random, out: int = 0) -> tuple[nn.Module, int]:
    out = out or width(random)
    kernel, groups = random.choice([1, 3]), random.choice([1, 1, 2, 4])
    layer = nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=random.random() < 0.5)
    return nn.Sequential(layer, norm(out, random), activation(random)), out


def depthwise(channels: int, random: Random) -> tuple[nn.Module, int]:
    times = random.choice([1, 2])
    spread = nn.Conv2d(channels, times * channels, 3, padding=1, groups=channels)
    mixed, out = conv(times * channels, random)
    return nn.Sequential(spread, mixed), out


def residual(channels: int, random: Random) -> tuple[nn.Module, int]:
    first, middle = conv(channels, random)
    second, _ = conv(middle, random, channels)
    scale = nn.Conv2d(channels, channels, 1, groups=channels)
    return Lambda(lambda self, x: x + self.scale(self.g(self.f(x))), f=first, g=second, scale=scale), channels


def joined(channels: int, random: Random) -> tuple[nn.Module, int]:
    (first, one), (second, two) = conv(channels, random), conv(channels, random)
    if random.random() < 0.5:
        return Lambda(lambda self, x: torch.cat([self.f(x), x, self.g(x)], 1), f=first, g=second), one + channels + two
    return Lambda(lambda self, x: torch.cat([self.g(x), self.f(x)], 1), f=first, g=second), one + two


def parted(channels: int, random: Random) -> tuple[nn.Module, int]:
    head = 2 * random.randint(1, channels // 2 - 1) if channels > 4 else 2
    first, out = conv(head if head % 4 == 0 else 4, random)
    enter = nn.Conv2d(head, head if head % 4 == 0 else 4, 1)

    def run(self: nn.Module, x: Tensor) -> Tensor:
        left, right = torch.split(x, [head, channels - head], 1)
        return torch.cat([right, self.f(self.enter(left))], 1)  # type: ignore[operator]

    pad = -(out + channels - head) % 4
    leave = nn.Conv2d(out + channels - head, out + channels - head + pad, 1)
    return nn.Sequential(Lambda(run, f=first, enter=enter), leave), out + channels - head + pad


def gated(channels: int, random: Random) -> tuple[nn.Module, int]:
    out = width(random)
    enter = nn.Conv2d(channels, 2 * out, 1)
    if random.random() < 0.5:
        return Lambda(lambda self, x: F.glu(self.enter(x), 1), enter=enter), out

    def run(self: nn.Module, x: Tensor) -> Tensor:
        gate, value = self.enter(x).chunk(2, 1)  # type: ignore[operator]
        return gate.sigmoid() * value

    return Lambda(run, enter=enter), out


def squeezed(channels: int, random: Random) -> tuple[nn.Module, int]:
    down, up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def run(self: nn.Module, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()  # type: ignore[operator]

    return Lambda(run, down=down, up=up), channels


def shuffled(channels: int, random: Random) -> tuple[nn.Module, int]:
    groups = random.choice([2, 4])

    def run(self: nn.Module, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)

    enter = nn.Conv2d(channels, channels, 1, groups=random.choice([1, groups]))
    leave, out = conv(channels, random)
    return nn.Sequential(enter, Lambda(run), leave), out


def pixels(channels: int, random: Random) -> tuple[nn.Module, int]:
    out = width(random)
    enter = nn.Conv2d(channels, 4 * out, 1)
    return nn.Sequential(enter, nn.PixelShuffle(2), nn.AvgPool2d(2)), out


def transposed(channels: int, random: Random) -> tuple[nn.Module, int]:
    out = width(random)
    layer = nn.ConvTranspose2d(channels, out, 2, stride=2, groups=random.choice([1, 2]))
    return nn.Sequential(layer, nn.MaxPool2d(2)), out


def _tokens(function: Callable[..., Tensor], **children: nn.Module) -> nn.Module:
    """A residual block over tokens, on an image."""

    def run(self: nn.Module, x: Tensor) -> Tensor:
        made = function(self, self.norm(x.flatten(2).transpose(1, 2)))  # type: ignore[operator]
        return x + made.transpose(1, 2).reshape(x.shape)

    return Lambda(run, **children)


def attention(channels: int, random: Random) -> tuple[nn.Module, int]:
    heads, inner, shared = 4, random.choice([2, 4]), random.choice([1, 2])
    fused = random.random() < 0.5
    kv = heads if fused else heads // shared

    def run(self: nn.Module, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        if fused:
            q, k, v = self.qkv(x).reshape(n, t, 3, heads, inner).permute(2, 0, 3, 1, 4)  # type: ignore[operator]
        else:
            q, k, v = torch.split(self.qkv(x), [heads * inner, kv * inner, kv * inner], -1)  # type: ignore[operator]
            q, k, v = (i.view(n, t, -1, inner).transpose(1, 2) for i in (q, k, v))
            k, v = (i.repeat_interleave(heads // kv, 1) for i in (k, v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1))  # type: ignore[operator]

    qkv = nn.Linear(channels, (heads + 2 * kv) * inner)
    out = nn.Linear(heads * inner, channels)
    return _tokens(run, norm=nn.LayerNorm(channels), qkv=qkv, out=out), channels


def transformer_mlp(channels: int, random: Random) -> tuple[nn.Module, int]:
    hidden = width(random)
    up, gate, down = nn.Linear(channels, hidden), nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def run(self: nn.Module, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))  # type: ignore[operator]

    return _tokens(run, norm=nn.RMSNorm(channels), up=up, gate=gate, down=down), channels


def channel_attention(channels: int, random: Random) -> tuple[nn.Module, int]:
    def run(self: nn.Module, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)  # type: ignore[operator]
        q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
        return self.out(torch.einsum("nij,ntj->nti", torch.einsum("nti,ntj->nij", q, k).softmax(-1), v))  # type: ignore[operator]

    qkv, out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
    return _tokens(run, norm=nn.LayerNorm(channels), qkv=qkv, out=out), channels


def recurrent(channels: int, random: Random) -> tuple[nn.Module, int]:
    kind = random.choice([nn.LSTM, nn.GRU])
    both = random.random() < 0.5
    core = kind(channels, 4, num_layers=random.choice([1, 2]), batch_first=True, bidirectional=both)
    out = nn.Linear(8 if both else 4, channels)
    return _tokens(lambda self, x: self.out(self.core(x)[0]), norm=nn.LayerNorm(channels), core=core, out=out), channels


class Experts(nn.Module):
    """The two best of four feed-forward parts for each token, their weights stacked."""

    def __init__(self, channels: int, gathered: bool) -> None:
        super().__init__()
        self.gathered = gathered
        self.router = nn.Linear(channels, 4)
        self.up = nn.Parameter(torch.randn(4, channels, 6))
        self.down = nn.Parameter(torch.randn(4, 6, channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, T, C]`` to the same shape."""
        share, place = self.router(x).softmax(-1).topk(2, -1)
        if self.gathered:
            inner = (x[:, :, None, None] @ self.up[place]).relu()
            return (inner @ self.down[place] * share[..., None, None]).sum((2, 3))
        chosen = (place[..., None] == torch.arange(4)).to(x.dtype)
        inner = torch.einsum("ntc,ech->nteh", x, self.up).relu()
        return torch.einsum("nteh,ehc,nte->ntc", inner, self.down, torch.einsum("ntk,ntke->nte", share, chosen))


def routed(channels: int, random: Random) -> tuple[nn.Module, int]:
    core = Experts(channels, random.random() < 0.5)
    return _tokens(lambda self, x: self.core(x), norm=nn.LayerNorm(channels), core=core), channels


BLOCKS: list[Block] = [
    conv, depthwise, residual, joined, parted, gated, squeezed, shuffled, pixels, transposed, attention,
    transformer_mlp, channel_attention, recurrent, routed,
]  # fmt: skip


class RandomNetwork(nn.Module):
    """A stem, some blocks, and a head that flattens positions or averages them."""

    def __init__(self, seed: int, blocks: list[Block] | None = None) -> None:
        super().__init__()
        random = Random(seed)
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        channels, body = 8, []
        for block in blocks or [random.choice(BLOCKS) for _ in range(random.randint(2, 4))]:
            made, channels = block(channels, random)
            body.append(made)
        self.body = nn.Sequential(*body)
        self.flat = random.random() < 0.5
        self.head = nn.Linear(channels * (16 if self.flat else 1), 5)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 4, 4]`` to ``[N, 5]``."""
        x = self.body(self.stem(x))
        return self.head(x.flatten(1) if self.flat else x.mean((2, 3)))
