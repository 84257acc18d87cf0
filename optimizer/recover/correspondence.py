"""Which part of an original node's value a damaged node's value stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from tersor.axes import Axes, Kept
from tersor.axes.remove import narrowed
from tersor.errors import TersorError


@dataclass(frozen=True)
class Correspondence:
    """How values of a damaged program are compared with the original's.

    Without cuts a value stands for the whole of the original's, which fits passes that keep every shape.

    Attributes:
        cuts: analyses and the indices that they left, in the order in which the cuts were made.
        names: the original's node name for each damaged node that has another one.

    >>> Correspondence().part("x", torch.ones(2)).tolist()
    [1.0, 1.0]
    """

    cuts: tuple[tuple[Axes, Kept], ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def cut(cls, axes: Axes, kept: Kept) -> Correspondence:
        """That of `tersor.axes.cut` with the same arguments."""
        return cls(((axes, kept),))

    def then(self, axes: Axes, kept: Kept) -> Correspondence:
        """This one, followed by another cut of the damaged program."""
        return replace(self, cuts=(*self.cuts, (axes, kept)))

    def original(self, name: str) -> str:
        """The original's name of a damaged node."""
        return self.names.get(name, name)

    def part(self, name: str, value: torch.Tensor) -> torch.Tensor | None:
        """What is left of the value of an original node, or of its first result; None where that cannot be said."""
        for axes, kept in self.cuts:
            found = axes.values.get(name)
            dims = found[0] if isinstance(found, list) and found else found
            if not isinstance(dims, tuple) or len(dims) != value.dim():
                return None
            try:
                value = narrowed(value, dims, kept)
            except (TersorError, TypeError, IndexError, RuntimeError):
                # A cut axis inside a dimension whose size differs from call to call has no fixed positions.
                return None
        return value
