"""What layers read and give on calibration inputs: second moments, and hooks for sums of other kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from tersor.calibrate import Tap, statistics
from tersor.interface import Flat
from tersor.program import Program

Hook: TypeAlias = Callable[[Sequence[Any], Any], None]
"""Called with a node's positional arguments and its result, once per calibration input."""

ROWS = 1 << 14
"""Of more rows than this in one calibration input an evenly spaced part is used: they are neighbours in one image."""


@dataclass(frozen=True, eq=False)
class Moments:
    """The first two moments of rows.

    Attributes:
        count: rows seen.
        mean: (width,) average row, float64.
        second: (width, width) average outer product, float64.
    """

    count: int
    mean: Tensor
    second: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """Of (n, width) rows.

        >>> Moments.of(torch.tensor([[1.0], [3.0]])).covariance.tolist()
        [[1.0]]
        """
        rows = rows.double()
        return cls(len(rows), rows.mean(0), rows.T @ rows / len(rows))

    @property
    def width(self) -> int:
        """Numbers per row."""
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """(width, width) average outer product of the rows less their mean."""
        return self.second - torch.outer(self.mean, self.mean)


def moments(program: Program, taps: Iterable[Tap], batches: Sequence[Flat]) -> dict[Tap, Moments]:
    """Moments of what each tap reads on the calibration inputs; taps that met infinities or nothing are left out."""
    wanted = list(taps)
    if not wanted or not batches:
        return {}
    found = statistics(program, wanted, batches, gram=True, patches=False, precise=True)
    return {
        tap: Moments(item.samples, item.gram_mean, item.gram / item.samples)
        for tap, item in found.items()
        if item.gram is not None and item.gram_mean is not None and item.samples and bool(item.gram.isfinite().all())
    }


def thinned(rows: Tensor) -> Tensor:
    """An evenly spaced part of very many rows."""
    return rows[:: -(-rows.shape[0] // ROWS)] if rows.shape[0] > ROWS else rows


def last_rows(value: Tensor) -> Tensor:
    """(..., width) as (n, width)."""
    return value.reshape(-1, value.shape[-1])


def channel_rows(value: Tensor) -> Tensor:
    """(batch, width, ...) as (n, width)."""
    return last_rows(value.movedim(1, -1))


def observe(program: Program, batches: Iterable[Flat], hooks: Mapping[str, Hook]) -> None:
    """Run the program on each calibration input and call the hook of each named node."""
    if not hooks:
        return
    observer = _Observer(program, hooks)
    with torch.no_grad():
        for inputs in batches:
            observer.run(*inputs)


class _Observer(fx.Interpreter):
    def __init__(self, program: Program, hooks: Mapping[str, Hook]) -> None:
        super().__init__(program.module(), garbage_collect_values=True)
        self.hooks = hooks

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        hook = self.hooks.get(n.name)
        if hook is not None:
            hook(self.fetch_args_kwargs_from_env(n)[0], result)
        return result
