"""Tiles chosen by measuring instead of by table: optional, once for each kernel, device and shape."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from tersor.kernels.tile import Tile

Measure = Callable[[Callable[[], object]], float]
"""Seconds, or anything that grows with them, that a call takes."""

_measure: ContextVar[Measure | None] = ContextVar("measure", default=None)
_found: dict[Hashable, Tile] = {}


@contextmanager
def autotuned(measure: Measure | None = None) -> Iterator[None]:
    """Within it kernels that see a shape for the first time try all tiles of their table and keep the fastest.

    Args:
        measure: what times a call; Triton's benchmark where None.
    """
    token = _measure.set(measure or _benchmark)
    try:
        yield
    finally:
        _measure.reset(token)


def best(key: Hashable, table: Tile, candidates: Sequence[Tile], run: Callable[[Tile], object]) -> Tile:
    """The fastest tile where kernels are autotuned, or were for this key; that of the table otherwise.

    A tile that the device refuses, for want of shared memory, does not take part.
    """
    if key in _found:
        return _found[key]
    measure = _measure.get()
    if measure is None or torch.compiler.is_compiling() or len(candidates) < 2:
        return table
    times = {index: _time(measure, run, item) for index, item in enumerate(candidates)}
    fastest = min(times, key=lambda index: times[index])
    _found[key] = candidates[fastest] if times[fastest] < float("inf") else table
    return _found[key]


def forget() -> None:
    """Forget what was measured."""
    _found.clear()


def _time(measure: Measure, run: Callable[[Tile], object], tile: Tile) -> float:
    try:
        return measure(lambda: run(tile))
    except Exception as error:
        if type(error).__name__ != "OutOfResources":
            raise
        return float("inf")


def _benchmark(call: Callable[[], object]) -> float:
    from triton.testing import do_bench

    return float(do_bench(call))
