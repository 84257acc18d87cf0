"""What the efficiency of a float32 GPU kernel is predicted from: a dozen plain numbers per kind of kernel."""

from __future__ import annotations

import math

from tersor.cost.bound import bound
from tersor.cost.launches import Launch
from tersor.target import Target

TILES = ((128, 128, 1.0), (128, 64, 0.97), (64, 64, 0.85), (128, 32, 0.8), (32, 128, 0.8), (64, 32, 0.7), (32, 32, 0.5))
"""Rows and columns of the output that a block computes, and how well it uses the arithmetic units."""
WATTS = 16e-12
"""Watts for each float32 operation per second outside tensor cores, at 7 to 16 nm: what limits small boards."""
LIMITED = ("6", "7", "8.0")
"""Compute capabilities that this figure holds for."""
SUSTAINED = {"linear": (0.0, 0.0), "bmm": (1e-3, 25e-3), "conv": (1e-3, 25e-3)}
"""Seconds from which the power limit begins to hold, and from which it holds in full, by kind of kernel."""
NAMES = {
    "linear": ("intensity", "k", "waves", "tiles", "m", "n", "n on Pascal", "weight in cache"),
    "bmm": (
        "intensity", "k", "waves", "tiles", "m", "n", "n on Pascal", "weight in cache", "groups", "pad m 128",
        "pad n 128", "pad m 64", "pad n 64", "generation",
    ),
    "conv": (
        "intensity", "k", "waves", "tiles", "m", "n", "n on Pascal", "weight in cache", "window", "stride", "side",
        "channels", "images", "Winograd", "Pascal", "pad channels 32", "pad n 32",
    ),
    "rows": ("size in cache", "columns", "rows", "elements", "microseconds"),
}  # fmt: skip


def room(kind: str) -> str:
    """The entry of `NAMES` and of the coefficients that a kind of kernel has; empty where it has none."""
    if kind in ("conv", "pointwise_conv"):
        return "conv"
    return kind if kind in ("linear", "bmm", "elementwise", "softmax", "norm") else ""


def reachable(launch: Launch, target: Target) -> float:
    """Seconds of the roofline where the board's power limits the clock of long float32 products."""
    least = bound(launch, target)
    limits = SUSTAINED.get(room(launch.kind))
    if limits is None or not target.power or not target.capability.startswith(LIMITED):
        return least.seconds
    share = min(1.0, target.power / (WATTS * target.rate("float32")))
    begins, full = limits
    held = 1.0 if not full else math.log(max(least.seconds, 1e-9) / begins) / math.log(full / begins)
    return max(least.compute / share ** min(1.0, max(0.0, held)), least.memory)


def features(launch: Launch, target: Target) -> list[float]:
    """The numbers that `NAMES` lists for the kind of the kernel, most as natural logarithms."""
    kind = room(launch.kind)
    if kind not in ("linear", "bmm", "conv"):
        return _rows(launch, target)
    m, n, k, groups = launch.m, launch.n, max(1, launch.k), launch.groups
    memory = max(bound(launch, target).memory, 1e-12)
    compute = (
        launch.flops / target.rate("float32") * max(1.0, reachable(launch, target) / bound(launch, target).seconds)
    )
    pascal = float(target.capability.startswith("6"))
    found = [
        math.log(max(compute, 1e-12) / memory),
        math.log(k),
        math.log(waves(groups, m, n, target.units)),
        math.log(groups * m * n / target.units / 4096),
        math.log(m),
        math.log(n),
        math.log(n) * pascal,
        math.log(4 * n * k / target.cache),
    ]
    if kind == "bmm":
        generation = float(target.capability.partition(".")[0] or 0)
        pads = [padding(m, 128), padding(n, 128), padding(m, 64), padding(n, 64)]
        return [*found, math.log(groups), *pads, generation]
    return found + (_convolution(launch, pascal) if kind == "conv" else [])


def waves(groups: int, m: int, n: int, units: int) -> float:
    """Time of whole rounds of blocks over all processors, at the best tile, relative to no rounding at all.

    >>> round(waves(1, 128, 128, 2), 3)
    1.031
    """
    best = min(
        math.ceil(groups * -(-m // rows) * -(-n // columns) / units) * rows * columns / use
        for rows, columns, use in TILES
    )
    return best * units / (groups * m * n)


def padding(size: int, tile: int) -> float:
    """Logarithm of how much larger a size is when it is rounded up to a tile."""
    return math.log(-(-size // tile) * tile / size)


def _convolution(launch: Launch, pascal: float) -> list[float]:
    channels = max(1, launch.k // launch.window)
    kernel = math.isqrt(launch.window)
    side = math.isqrt(max(1, launch.m // launch.images))
    winograd = float(kernel == 3 and launch.stride == 1)
    return [
        math.log(kernel), float(launch.stride), float(side), math.log(channels), math.log(launch.images), winograd,
        pascal, padding(channels, 32), padding(launch.n, 32),
    ]  # fmt: skip


def _rows(launch: Launch, target: Target) -> list[float]:
    moved, columns = max(1.0, launch.bytes), max(1, launch.n)
    rows = max(1, launch.m)
    return [
        math.log(moved / target.cache),
        math.log(columns),
        math.log(rows / target.units),
        math.log(rows * columns / target.units / 2048),
        math.log(moved / target.bandwidth * 1e6),
    ]
