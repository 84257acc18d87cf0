"""Index arithmetic on terms: what remains of a dimension when indices of its axes are removed."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tersor.axes.terms import Axis, Cat, Product, Size, Term, children, resolve, size

Kept = Mapping[Axis, torch.Tensor]
"""For each axis that loses indices, those that stay, as int64 in the order that they are to have."""


def touched(term: Term, kept: Kept) -> bool:
    """Whether a dimension loses or moves anything."""
    term = resolve(term)
    if isinstance(term, Axis):
        return term in kept
    return any(touched(child, kept) for child in children(term))


def length(term: Term, kept: Kept) -> Size:
    """The size of a dimension afterwards."""
    term = resolve(term)
    if isinstance(term, Axis):
        return len(kept[term]) if term in kept else term.size
    if not touched(term, kept):
        return size(term)
    total: Size = 1 if isinstance(term, Product) else 0
    for child in children(term):
        total = total * length(child, kept) if isinstance(term, Product) else total + length(child, kept)
    return total


def indices(term: Term, kept: Kept) -> torch.Tensor:
    """The positions of a dimension that stay, in order.

    >>> heads, inner = Axis(2), Axis(3)
    >>> indices(Product((heads, inner)), {inner: torch.tensor([0, 2])}).tolist()
    [0, 2, 3, 5]
    """
    term = resolve(term)
    if isinstance(term, Axis):
        return kept[term] if term in kept else torch.arange(int(term.size))
    if isinstance(term, Cat):
        offset, found = 0, []
        for part in term.parts:
            found.append(indices(part, kept) + offset)
            offset += int(size(part))
        return torch.cat(found) if found else torch.arange(0)
    positions = torch.zeros(1, dtype=torch.int64)
    for factor in term.factors:
        positions = (positions[:, None] * int(size(factor)) + indices(factor, kept)[None, :]).flatten()
    return positions


def owners(term: Term, axis: Axis) -> torch.Tensor:
    """For each position of a dimension the index of ``axis`` that it belongs to, -1 where none.

    >>> heads, inner = Axis(2), Axis(3)
    >>> owners(Product((heads, inner)), heads).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    term = resolve(term)
    if isinstance(term, Axis):
        own = torch.arange(int(term.size))
        return own if term is axis else torch.full_like(own, -1)
    if isinstance(term, Cat):
        return torch.cat([owners(part, axis) for part in term.parts]) if term.parts else torch.arange(0)
    found = torch.full((1,), -1, dtype=torch.int64)
    for factor in term.factors:
        found = torch.maximum(found[:, None], owners(factor, axis)[None, :]).flatten()
    return found
