"""What kernels cost beside others: values that another core made, or in a farther cache, take longer to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tersor.cost.launches import Launch

Numbers = NDArray[np.float64]
CLASSES = {
    "conv": "conv", "grouped_conv": "conv", "pointwise_conv": "pointwise", "depthwise": "depthwise", "linear": "linear",
    "bmm": "linear", "attention": "attention", "convert": "convert",
}  # fmt: skip
"""Kinds of kernels that share a cost for each byte; all others are "rows"."""
_MEGABYTE = 1e6
_SHARED = 5e-6
"""Seconds from which all threads share a kernel: handing over from one to the next costs something then."""
KEPT = 0.3
"""Share of the last-level cache in which a run finds its weights again; activations and others take the rest."""
_SLOWEST = 2.0
_PULL = 1e-3


@dataclass(frozen=True)
class BlockRow:
    """A measured block of different operators: what it runs, its seconds, and whether its weights stay in the cache."""

    launches: tuple[Launch, ...]
    seconds: float
    resident: bool = True


def terms(launch: Launch, alone: float, resident: bool) -> dict[str, float]:
    """Megabytes of activations by class, of weights that come from memory, and up to one for handing over.

    Args:
        launch: the kernel.
        alone: seconds that it takes by itself.
        resident: whether its weights lie in the cache.
    """
    found = {
        f"{CLASSES.get(launch.kind, 'rows')}, MB": launch.moved / _MEGABYTE,
        "handing over": min(1.0, alone / _SHARED),
    }
    return found if resident else found | {"weights from memory, MB": launch.weights / _MEGABYTE}


def seconds(launch: Launch, fitted: Mapping[str, float], alone: float, resident: bool) -> float:
    """Seconds that a launch takes longer than by itself."""
    return sum(fitted.get(name, 0.0) * amount for name, amount in terms(launch, alone, resident).items())


def fit(rows: Sequence[BlockRow], alone: Sequence[Sequence[float]], bandwidth: float) -> dict[str, float]:
    """Seconds of each term, none below 0: least squares of relative errors.

    Args:
        rows: measured blocks.
        alone: what each of their operators takes by itself, in seconds.
        bandwidth: bytes per second of memory; none takes more than `_SLOWEST` times as long as that says.
    """
    sums: list[dict[str, float]] = []
    for row, parts in zip(rows, alone, strict=True):
        total: Counter[str] = Counter()
        for launch, own in zip(row.launches, parts, strict=True):
            total.update(terms(launch, own, row.resident))
        sums.append(dict(total))
    names = sorted({name for total in sums for name in total})
    if not names:
        return {}
    amounts = np.array([[total.get(name, 0.0) for name in names] for total in sums])
    taken = np.array([row.seconds for row in rows])
    left = (taken - np.array([sum(parts) for parts in alone])) / taken
    most = np.array([1e6 * (_SLOWEST * _MEGABYTE / bandwidth if "MB" in name else _SHARED) for name in names])
    found = non_negative(1e-6 * amounts / taken[:, None], left, most)
    return {name: 1e-6 * float(value) for name, value in zip(names, found, strict=True)}


def non_negative(rows: Numbers, wanted: Numbers, most: Numbers | None = None, rounds: int = 2000) -> Numbers:
    """Least squares with no coefficient below 0 or above ``most``, one after the other (Franc et al., 2005).

    >>> non_negative(np.eye(2), np.array([1.0, -1.0])).round(2).tolist()
    [1.0, 0.0]
    """
    square = rows.T @ rows
    square = square + _PULL * np.diag(np.diag(square) + 1e-12)
    aim, found = rows.T @ wanted, np.zeros(rows.shape[1])
    highest = np.full(len(found), np.inf) if most is None else most
    for _ in range(rounds):
        for place in range(len(found)):
            step = (aim[place] - square[place] @ found) / max(square[place, place], 1e-30)
            found[place] = min(highest[place], max(0.0, found[place] + step))
    return found
