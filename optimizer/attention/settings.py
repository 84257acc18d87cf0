"""The settings of each method that are worth a look for an attention of a given length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tersor.attention.methods import (
    Blocks,
    Distilled,
    Features,
    Guided,
    Landmarks,
    Method,
    Permute,
    Pooled,
    Sampled,
    Select,
    Window,
)
from tersor.attention.site import Site


def settings(site: Site, names: Sequence[str]) -> list[Method]:
    """Methods by name with settings that follow the number of keys, the cheapest of each first.

    >>> [item.reach for item in settings(Site(1, 1, 1, 512, 512, 64, 64), ["window"])]
    [32, 64]
    """
    return [item for name in names for item in _TABLE[name](site)]


def _power(size: float) -> int:
    """The largest power of two that is no larger, at least 16."""
    return max(16, 1 << int(math.log2(max(size, 1))))


def _block(site: Site) -> int:
    return min(64, max(16, _power(site.columns / 16)))


def _windows(site: Site) -> list[Method]:
    reaches = [_power(site.columns / 16), _power(site.columns / 8)]
    return [Window(reach, min(reach, 128)) for reach in dict.fromkeys(reaches)]


def _sinks(site: Site) -> list[Method]:
    return [Window(item.reach, item.block, sinks=16) for item in _windows(site) if isinstance(item, Window)]


def _dilated(site: Site) -> list[Method]:
    reach = _power(site.columns / 32)
    return [Window(reach, min(reach, 128), dilation=4)]


def _kept(site: Site) -> list[int]:
    blocks = -(-site.columns // _block(site))
    return list(dict.fromkeys(max(2, round(blocks * share)) for share in (0.125, 0.25)))


def _blocks(site: Site) -> list[Method]:
    return [Blocks(_block(site), keep) for keep in _kept(site)]


def _select(site: Site) -> list[Method]:
    return [Select(_block(site), keep) for keep in _kept(site)]


def _proxies(site: Site) -> list[Method]:
    groups = next((groups for groups in (site.heads // 4, site.heads // 2) if groups and site.heads % groups == 0), 0)
    return [Select(_block(site), keep, proxies=groups) for keep in _kept(site)] if groups else []


def _permute(site: Site) -> list[Method]:
    return [Permute(4 * _block(site), _block(site), keep) for keep in _kept(site)]


def _pooled(site: Site) -> list[Method]:
    found: list[Method] = []
    for prefix in (0, 1):
        line = math.isqrt(max(site.columns - prefix, 0))
        square = line * line == site.columns - prefix and site.rows == site.columns
        found += [Pooled(side, line, prefix) for side in (4, 2) if square and line % side == 0 and line > side]
    return found or [Pooled(4), Pooled(2)]


def _landmarks(site: Site) -> list[Method]:
    return [Landmarks(32), Landmarks(64)]


def _sampled(site: Site) -> list[Method]:
    return [Sampled(size, size) for size in dict.fromkeys((_power(site.columns / 16), _power(site.columns / 8)))]


def _features(site: Site) -> list[Method]:
    return [Features(site.width), Features(2 * site.width)]


def _distilled(site: Site) -> list[Method]:
    return [Distilled(max(8, site.width // 2)), Distilled(site.width)]


_TABLE: dict[str, Callable[[Site], list[Method]]] = {
    "window": _windows,
    "sinks": _sinks,
    "dilated": _dilated,
    "blocks": _blocks,
    "select": _select,
    "proxies": _proxies,
    "permute": _permute,
    "pooled": _pooled,
    "landmarks": _landmarks,
    "sampled": _sampled,
    "features": _features,
    "distilled": _distilled,
    "guided": lambda site: [Guided()],
}
NAMES = tuple(_TABLE)

ASKED = ("guided", "distilled")
"""Used only where they are named: the first needs to know what the batch holds, the second trains."""
