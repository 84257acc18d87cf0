"""Optimization profiles: the smallest, usual and largest sizes of each dynamic input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import sympy

from tersor.backends._tensorrt_options import Options
from tersor.errors import UsageError
from tersor.program import Dimension, Program, evaluate

Shape = tuple[int, ...]
Range = tuple[int, int, int]


@dataclass(frozen=True)
class Profile:
    """One range of sizes that TensorRT chooses kernels for.

    Attributes:
        shapes: by input name: smallest, usual and largest shape; inputs of fixed shape are left out.
    """

    shapes: Mapping[str, tuple[Shape, Shape, Shape]]

    def holds(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether inputs of these shapes are within the range."""
        return all(_within(shapes[name], low, high) for name, (low, _, high) in self.shapes.items())


def _within(shape: Shape, low: Shape, high: Shape) -> bool:
    return len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))


def profiles(program: Program, options: Options) -> tuple[Profile, ...]:
    """What the options ask for, or one profile with the program's own bounds; none where all shapes are fixed.

    Raises UsageError where ``options.shapes`` does not fit the program.
    """
    if not program.dimensions and not options.shapes:
        return ()
    return tuple(_profile(program, part, options.growth) for part in options.shapes.split("+"))


def unbounded(program: Program, options: Options) -> list[Dimension]:
    """Dimensions whose largest size nobody gave."""
    given = {name for part in options.shapes.split("+") for name in _parse(part)}
    return [item for item in program.dimensions.values() if item.maximum is None and item.name not in given]


def _profile(program: Program, text: str, growth: int) -> Profile:
    asked = _parse(text)
    ranges: dict[str, Range] = {}
    for symbol, dimension in program.dimensions.items():
        wanted = asked.pop(dimension.name, None)
        ranges[symbol] = _steps(dimension, wanted) if wanted else _usual(dimension, growth)
    if asked:
        raise _unknown(next(iter(asked)), program)
    low, usual, high = ({symbol: sizes[place] for symbol, sizes in ranges.items()} for place in range(3))
    shapes = {}
    for name, sizes in zip(program.interface.input_names, program.sizes, strict=True):
        if any(isinstance(size, sympy.Expr) for size in sizes):
            made = [tuple(evaluate(size, bound) for size in sizes) for bound in (low, usual, high)]
            shapes[name] = (made[0], made[1], made[2])
    return Profile(shapes)


def _usual(dimension: Dimension, growth: int) -> Range:
    high = dimension.maximum if dimension.maximum is not None else dimension.hint * growth
    return min(dimension.minimum, dimension.hint), dimension.hint, max(high, dimension.hint)


def _steps(dimension: Dimension, sizes: Range) -> Range:
    """Sizes of an axis in steps of the dimension, checked against its bounds."""
    low, usual, high = (size // dimension.step for size in sizes)
    if any(size % dimension.step for size in sizes):
        raise UsageError(
            f"shapes: sizes {sizes} of {dimension.name!r} are no multiples of {dimension.step}",
            f"the model takes multiples of {dimension.step} there",
        )
    if low < dimension.minimum or (dimension.maximum is not None and high > dimension.maximum):
        most = "any" if dimension.maximum is None else dimension.maximum * dimension.step
        raise UsageError(
            f"shapes: {dimension.name!r} from {sizes[0]} to {sizes[2]} is outside of what the model takes",
            f"it takes {dimension.minimum * dimension.step} to {most}",
        )
    return low, usual, high


def _parse(text: str) -> dict[str, Range]:
    """Sizes by dimension from ``batch:1:8:64/length:16:128:512``.

    >>> _parse("batch:1:8:64")
    {'batch': (1, 8, 64)}
    """
    found: dict[str, Range] = {}
    for part in filter(None, (item.strip() for item in text.split("/"))):
        name, *numbers = part.rsplit(":", 3)
        if len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers):
            raise UsageError(f"shapes: cannot read {part!r}", "write name:smallest:usual:largest, as in batch:1:8:64")
        low, usual, high = map(int, numbers)
        if not 0 < low <= usual <= high:
            raise UsageError(f"shapes: {part!r} does not rise", "write the smallest size first and the largest last")
        found[name] = (low, usual, high)
    return found


def _unknown(name: str, program: Program) -> UsageError:
    names = [dimension.name for dimension in program.dimensions.values()]
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"its dynamic dimensions: {', '.join(names) or 'none'}"
    return UsageError(f"shapes: the model has no dynamic dimension {name!r}", hint)
