"""Calibration inputs, checked, and split into those that a repair is fitted on and those that judge it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import sympy
import torch

from tersor.errors import InputError
from tersor.interface import Flat
from tersor.program import Dimension, Program
from tersor.recover.lockstep import live_bytes

HELD_OUT = 0.25
"""Share of the calibration inputs that judge."""

MEMORY = 4 << 30
"""Bytes of activations that layer-wise repairs may keep."""

BATCH = 64
"""Examples per batch where batches are made anew."""


@dataclass(frozen=True)
class Samples:
    """Batches of flat inputs.

    Attributes:
        fit: what repairs are fitted on.
        held: what they are judged on; the same batches where there are too few to split.
        separate: whether the two differ.
        dimension: the dynamic dimension that counts examples; None where batches must stay as they came.
    """

    fit: tuple[Flat, ...]
    held: tuple[Flat, ...]
    separate: bool
    dimension: Dimension | None = None

    @property
    def batches(self) -> tuple[Flat, ...]:
        """All of them, those to fit on first."""
        return (*self.fit, *self.held) if self.separate else self.fit


def split(program: Program, calibration: Iterable[Sequence[torch.Tensor]]) -> Samples:
    """Check calibration inputs and split them, the last quarter to judge.

    Where the first axis of every input counts examples, batches are joined and cut anew, so that a single large one
    can be split too. Raises InputError where there is none, or where one does not fit the program.
    """
    batches = [_checked(program, flat) for flat in calibration]
    if not batches:
        raise InputError("no calibration inputs", "give at least one, better a few hundred unlabelled examples")
    dimension = _counting(program)
    shapes = {tuple(value.shape[1:] for value in flat) for flat in batches}
    if dimension is not None and len(shapes) == 1:
        pool = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
        return _from_pool(pool, dimension)
    if len(batches) == 1:
        return Samples((batches[0],), (batches[0],), separate=False)
    held = max(1, round(HELD_OUT * len(batches)))
    return Samples(tuple(batches[:-held]), tuple(batches[-held:]), separate=True)


def _checked(program: Program, flat: Sequence[torch.Tensor]) -> Flat:
    wanted = list(program.interface.input_names)
    if isinstance(flat, torch.Tensor) or len(flat) != len(wanted):
        got = "one tensor" if isinstance(flat, torch.Tensor) else f"{len(flat)} tensors"
        raise InputError(f"a calibration input is {got}", f"wanted a tuple with one tensor for each of {wanted}")
    program.check_inputs(flat)
    return tuple(flat)


def _counting(program: Program) -> Dimension | None:
    """The dimension on the first axis of every input, if it is on no other axis."""
    first = {sizes[0] if sizes else 0 for sizes in program.sizes}
    symbol = next(iter(first), 0)
    if len(first) != 1 or not isinstance(symbol, sympy.Symbol):
        return None
    others = {
        free
        for sizes in program.sizes
        for size in sizes[1:]
        if isinstance(size, sympy.Expr)
        for free in size.free_symbols
    }
    return None if symbol in others else program.dimensions.get(symbol.name)


def _from_pool(pool: Flat, dimension: Dimension) -> Samples:
    count, least = len(pool[0]), max(dimension.minimum, 1)
    held = max(round(HELD_OUT * count), least)
    if count - held < least:
        return Samples((pool,), (pool,), separate=False, dimension=dimension)
    fit, rest = (tuple(v[: count - held] for v in pool), tuple(v[count - held :] for v in pool))
    return Samples(chunks(fit, dimension), chunks(rest, dimension), separate=True, dimension=dimension)


def within(samples: Samples, program: Program, memory: int) -> Samples:
    """As many of the batches as two runs of a program can keep in memory, in bytes, all at the same time."""
    elements = max(sum(value.numel() for value in program.inputs), 1)
    needed = 2 * live_bytes(program) * sum(value.numel() for flat in samples.batches for value in flat) / elements
    if needed <= memory:
        return samples
    fit, held = (batches[: max(1, int(len(batches) * memory / needed))] for batches in (samples.fit, samples.held))
    return replace(samples, fit=fit, held=held)


def chunks(pool: Flat, dimension: Dimension, size: int = BATCH) -> tuple[Flat, ...]:
    """Examples in batches of nearly equal size, none above ``size`` or outside the dimension's bounds."""
    count, most = len(pool[0]), min(size, dimension.maximum or size)
    pieces = max(1, min(-(-count // most), count // max(dimension.minimum, 1)))
    return tuple(zip(*(value.tensor_split(pieces) for value in pool), strict=True))


def joined(batches: Sequence[Flat]) -> Flat:
    """Batches as one."""
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
