"""Sizes for the dynamic dimensions, and inputs of those sizes, on which a program is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from tersor.interface import Flat
from tersor.probes import small, varied
from tersor.program import Dimension, Program, evaluate


@dataclass(frozen=True)
class Binding:
    """One choice of sizes.

    Attributes:
        sizes: by dimension name.
        inputs: flat tensors of those sizes.
        outputs: what the program returned when these were tried; None where they were not.
        given: what was done to the example inputs besides, such as "with small values".
    """

    sizes: dict[str, int]
    inputs: Flat
    outputs: Flat | None = None
    given: str = ""

    def outputs_of(self, program: Program) -> Flat:
        """The outputs of the program that the case was made for, which is not run again where it was tried."""
        return program.run(self.inputs) if self.outputs is None else self.outputs


def bindings(program: Program, extra: Sequence[Flat] = ()) -> list[Binding]:
    """The example inputs, then for each dynamic dimension a smaller and a larger size, then inputs given by the user.

    Resized inputs repeat the example's values along the axis, so that indices and masks stay valid. Sizes on which
    the program itself cannot run are left out.
    """
    chosen = [Binding(_example(program), program.inputs)]
    for sizes in _variations(program.dimensions):
        case = tried(program, _named(program, sizes), resized(program, sizes))
        chosen += [] if case is None else [case]
    chosen += [Binding(_named(program, program.check_inputs(flat)), tuple(flat)) for flat in extra]
    return chosen


def elsewhere(program: Program) -> tuple[dict[str, int], Flat] | None:
    """Other sizes, by dimension name, and the example inputs at them; None where no dimension is dynamic."""
    other = _variations(program.dimensions)[:1]
    return (_named(program, other[0]), resized(program, other[0])) if other else None


def hiding(program: Program) -> Binding | None:
    """The example inputs with masks that hide something; None where there are none, or the program refuses them."""
    inputs = varied(program.inputs)
    return None if inputs is None else tried(program, _example(program), inputs, "with masks that hide something")


def tiny(program: Program) -> Binding | None:
    """The example inputs with small values; None where there are no values, or the program refuses them."""
    inputs = small(program.inputs)
    return None if inputs is None else tried(program, _example(program), inputs, "with small values")


def _example(program: Program) -> dict[str, int]:
    return _named(program, {key: dimension.hint for key, dimension in program.dimensions.items()})


def resized(program: Program, sizes: dict[str, int]) -> Flat:
    """The example inputs at other sizes, by symbol."""
    made = []
    for example, row in zip(program.inputs, program.sizes, strict=True):
        value = example
        for axis, size in enumerate(row):
            wanted = evaluate(size, sizes)
            if wanted != value.shape[axis]:
                value = value.index_select(axis, torch.arange(wanted, device=value.device) % value.shape[axis])
        made.append(value.contiguous())
    return tuple(made)


def _variations(dimensions: dict[str, Dimension]) -> list[dict[str, int]]:
    """Three choices however many dimensions there are: all larger, all smaller, and alternately."""
    larger = {key: _another(dimension, up=True) for key, dimension in dimensions.items()}
    smaller = {key: _another(dimension, up=False) for key, dimension in dimensions.items()}
    mixed = {key: (larger if position % 2 else smaller)[key] for position, key in enumerate(dimensions)}
    example = {key: dimension.hint for key, dimension in dimensions.items()}
    unique = []
    for sizes in (larger, smaller, mixed):
        if sizes != example and sizes not in unique:
            unique.append(sizes)
    return unique


def stepped(size: int, steps: int = 1) -> int:
    """A size near another that shares its large powers of two, since strides of a network must often divide it.

    >>> stepped(64), stepped(64, -1), stepped(5)
    (96, 32, 6)
    """
    step = 1
    while step < 32 and size % (step * 2) == 0 and size > step * 2:
        step *= 2
    return size + steps * step


def _another(dimension: Dimension, *, up: bool) -> int:
    """The next size up or down that the dimension allows."""
    size = stepped(dimension.hint, 1 if up else -1)
    low = max(dimension.minimum, 1)
    high = dimension.maximum if dimension.maximum is not None else max(size, low)
    return min(max(size, low), high)


def _named(program: Program, sizes: Mapping[str, int]) -> dict[str, int]:
    return {program.dimensions[key].name: size * program.dimensions[key].step for key, size in sizes.items()}


def tried(program: Program, sizes: dict[str, int], inputs: Flat, given: str = "") -> Binding | None:
    """The case with the program's outputs; None where the program does not take it."""
    try:
        return Binding(sizes, inputs, program.run(inputs), given)
    except Exception:
        return None
