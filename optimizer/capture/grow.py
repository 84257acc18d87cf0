"""Examples of size 1 on a dynamic axis, where torch.export would fix the axis: repeated for the capture alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

Places = Mapping[tuple[int, int], Hashable]
"""Dynamic axes by (position of the input, axis): what all axes of one size have in common, such as their name."""


def grown(values: Sequence[Any], places: Places) -> list[Any] | None:
    """Inputs repeated along those dynamic axes that have size 1, to sizes that no other dynamic axis has.

    Args:
        values: tensors, and whatever else is passed on as it is.
        places: the dynamic axes; axes with the same key grow alike, and only where all of them have size 1.

    Returns:
        None where nothing has to grow.

    >>> made = grown([torch.ones(1, 3), torch.ones(1, 5)], {(0, 0): "batch", (1, 0): "batch", (1, 1): "length"})
    >>> [tuple(value.shape) for value in made]
    [(2, 3), (2, 5)]
    """
    sizes: dict[Hashable, set[int]] = {}
    for (position, axis), key in places.items():
        if isinstance(values[position], torch.Tensor) and axis < values[position].dim():
            sizes.setdefault(key, set()).add(int(values[position].shape[axis]))
    taken = {size for found in sizes.values() for size in found}
    wanted: dict[Hashable, int] = {}
    for key in (key for key, found in sizes.items() if found == {1}):
        wanted[key] = next(size for size in range(2, len(taken) + 3) if size not in taken)
        taken.add(wanted[key])
    if not wanted:
        return None
    made = list(values)
    for (position, axis), key in places.items():
        if key in wanted and isinstance(made[position], torch.Tensor) and axis < made[position].dim():
            made[position] = made[position].repeat_interleave(wanted[key], axis)
    return made
