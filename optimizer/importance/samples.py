"""Samples: which dimension of a value counts the examples of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from tersor.axes.analysis import Axes
from tersor.axes.terms import Axis, Product, Term, resolve, size
from tersor.program import Program


@dataclass(frozen=True)
class Samples:
    """The axes that count examples: the first dimensions of the inputs.

    Attributes:
        axes: the analysis.
        terms: resolved first dimensions of the inputs.
    """

    axes: Axes
    terms: frozenset[Term]

    def rows(self, node: str, value: Tensor, count: int) -> int | None:
        """How many entries of the first dimension each example has; None where that does not count examples."""
        dims = self.axes.values.get(node)
        if count == 1:
            return len(value) if value.dim() else None
        if not isinstance(dims, tuple) or not dims or not value.dim() or len(value) % count:
            return None
        first = resolve(dims[0])
        lead = first.factors[0] if isinstance(first, Product) and first.factors else first
        return len(value) // count if self._counts(lead) else None

    def _counts(self, term: Term) -> bool:
        """Whether a term is a sample axis, or has the size of one where that differs from call to call."""
        if term in self.terms:
            return True
        return not isinstance(size(term), int) and any(size(term) == size(other) for other in self.terms)


def samples(program: Program, axes: Axes) -> Samples:
    """The sample axes of a program."""
    firsts = (axes.values.get(node.name) for node in program.placeholders)
    terms = (resolve(dims[0]) for dims in firsts if isinstance(dims, tuple) and dims)
    return Samples(axes, frozenset(term for term in terms if isinstance(term, Axis)))


def batch_size(flat: Sequence[Tensor]) -> int:
    """How many examples an input holds: the size of the first dimension of its first tensor."""
    return next((len(value) for value in flat if value.dim()), 1)
