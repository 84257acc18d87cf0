"""The token axis of a program, and where it lies in the dimensions of its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from tersor.axes import Axes
from tersor.axes.terms import Axis, Cat, Product, Term, leaves, resolve, size
from tersor.errors import RewriteError


class Apart(RewriteError):
    """A node needs the tokens where and as many as they were."""


@dataclass(frozen=True)
class Run:
    """Where tokens lie in a tensor.

    Attributes:
        dim: the dimension.
        before, after: positions of that dimension in front of and behind the tokens that are none of them.
        start: so many of the first tokens are missing.
        others: factors of that dimension beside the tokens.
    """

    dim: int
    before: int = 0
    start: int = 0
    after: int = 0
    others: tuple[Term, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether the dimension is the token axis itself."""
        return not (self.before or self.start or self.after or self.others)

    def length(self, count: Any) -> Any:
        """How many positions there are beside each of ``others``, where the sequence has ``count`` tokens."""
        return count + self.before - self.start + self.after


@dataclass(frozen=True)
class Tokens:
    """The axis that attention runs over.

    Attributes:
        term: as the axis analysis knows it.
        batch: the term of the samples, the first dimension of every tensor that holds tokens.
        first, last: positions in front and behind that stay: class, distillation and register tokens, text around
            an image; behind, one stands for a length that differs from call to call.
        stretch: which of the axis's parts may lose tokens; -1 is the longest.
    """

    term: Term
    batch: Term
    first: int = 0
    last: int = 0
    stretch: int = -1

    @property
    def parts(self) -> tuple[Term, ...]:
        """The axis as a sequence of stretches."""
        term = resolve(self.term)
        return term.parts if isinstance(term, Cat) else (term,)

    @property
    def total(self) -> Any:
        """How many tokens there are, a number or an expression."""
        return size(self.term)

    @property
    def main(self) -> Term:
        """The longest stretch, or the one whose length differs from call to call, unless another was named."""
        return self.parts[self.stretch] if self.stretch >= 0 else max(self.parts, key=_long)

    @property
    def leaves(self) -> frozenset[Axis]:
        """Atomic axes of the main stretch."""
        return frozenset(leaves(self.main))

    @property
    def front(self) -> int:
        """Positions before the main stretch."""
        at = self.stretch if self.stretch >= 0 else self.parts.index(self.main)
        return sum(map(_number, self.parts[:at]))

    @property
    def back(self) -> int:
        """Positions behind the main stretch."""
        at = self.stretch if self.stretch >= 0 else self.parts.index(self.main)
        return sum(map(_number, self.parts[at + 1 :]))

    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the main stretch, where it is a picture taken apart."""
        main = resolve(self.main)
        factors = main.factors if isinstance(main, Product) else ()
        sizes = [size(item) for item in factors]
        return (sizes[0], sizes[1]) if len(sizes) == 2 and all(isinstance(item, int) for item in sizes) else None

    def touches(self, term: Term) -> bool:
        """Whether tokens of the main stretch are in a dimension."""
        return any(leaf in self.leaves for leaf in leaves(term))

    def find(self, term: Term, dim: int) -> Run | None:
        """Where a dimension holds the tokens, None where it does not; raises Apart where it holds only some of them."""
        if not self.touches(term):
            return None
        term = resolve(term)
        factors = term.factors if isinstance(term, Product) else (term,)
        main = resolve(self.main)
        inner = main.factors if isinstance(main, Product) else (main,)
        alone = self.parts.index(main) == len(self.parts) - 1
        for at in range(len(factors) - len(inner) + 1):
            if alone and factors[at : at + len(inner)] == inner:
                others = (*factors[:at], *factors[at + len(inner) :])
                return Run(dim, start=self.front, others=self._others(others))
        for at, factor in enumerate(factors):
            found = self._inside(factor, dim)
            if found is not None:
                others = (*factors[:at], *factors[at + 1 :])
                return Run(dim, *found, self._others(others))
        raise Apart("it takes the tokens apart")

    def _others(self, others: tuple[Term, ...]) -> tuple[Term, ...]:
        if any(self.touches(term) for term in others):
            raise Apart("it crosses tokens with tokens")
        return others

    def _inside(self, factor: Term, dim: int) -> tuple[int, int, int] | None:
        """(before, start, after) where a factor is a sequence that ends in all tokens but some of the first."""
        if not isinstance(factor, Cat):
            return None
        for skipped in range(len(self.parts)):
            wanted = self.parts[skipped:]
            for at in range(len(factor.parts) - len(wanted) + 1):
                if factor.parts[at : at + len(wanted)] == wanted:
                    rest = (*factor.parts[:at], *factor.parts[at + len(wanted) :])
                    if any(self.touches(term) for term in rest):
                        return None
                    before, after = factor.parts[:at], factor.parts[at + len(wanted) :]
                    sizes = [sum(map(_number, side)) for side in (before, self.parts[:skipped], after)]
                    return sizes[0], sizes[1], sizes[2]
        return None

    def run(self, dims: Any) -> Run | None:
        """The one dimension that holds the tokens; raises Apart where several do, or one holds only some."""
        if not isinstance(dims, tuple):
            return None
        found = [run for place, term in enumerate(dims) if (run := self.find(term, place)) is not None]
        if len(found) > 1:
            raise Apart("it crosses tokens with tokens")
        return found[0] if found else None

    def holds(self, axes: Axes, node: fx.Node) -> bool:
        """Whether a tensor has tokens in any dimension, whole or apart."""
        dims = axes.values.get(node.name)
        flat = [term for item in dims for term in item] if isinstance(dims, list) else dims or ()
        return any(self.touches(term) for term in flat)

    def is_sequence(self, axes: Axes, node: fx.Node) -> bool:
        """Whether a tensor is (samples, tokens, features)."""
        dims = axes.values.get(node.name)
        if not isinstance(dims, tuple) or len(dims) != 3:
            return False
        same = resolve(dims[0]) == resolve(self.batch) and resolve(dims[1]) == resolve(self.term)
        return same and not self.touches(dims[2])


def _number(term: Term) -> int:
    length = size(term)
    if not isinstance(length, int):
        raise Apart("two stretches of tokens differ in length from call to call")
    return length


def _long(term: Term) -> float:
    length = size(term)
    return length if isinstance(length, int) else float("inf")
