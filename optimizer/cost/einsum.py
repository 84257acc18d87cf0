"""Floating-point operations of an Einstein sum, pairwise from left to right as PyTorch evaluates it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


def einsum_flops(equation: str, shapes: Sequence[tuple[int, ...]]) -> int | None:
    """Floating-point operations; a multiply-add is two. None where the equation does not fit the shapes.

    >>> einsum_flops("ij,jk->ik", [(2, 3), (3, 5)])
    60
    """
    terms, output = _terms(equation.replace(" ", ""), shapes)
    if len(terms) != len(shapes) or any(len(term) != len(shape) for term, shape in zip(terms, shapes, strict=True)):
        return None
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for label, size in zip(term, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return sum(math.prod(sizes[label] for label in used) * 2 for used in _steps(terms, output))


def _steps(terms: list[list[str]], output: set[str]) -> list[set[str]]:
    """Labels that each pairwise product runs over; labels that only one side has and nobody needs are summed before."""
    done = set(terms[0])
    steps: list[set[str]] = []
    for index, term in enumerate(terms[1:], start=1):
        later = output.union(*terms[index + 1 :])
        used = {label for label in done | set(term) if label in later or (label in done and label in term)}
        steps.append(used)
        done = used & later
    return steps


def _terms(equation: str, shapes: Sequence[tuple[int, ...]]) -> tuple[list[list[str]], set[str]]:
    left, arrow, right = equation.partition("->")
    written = left.split(",")
    ranks = [
        len(shape) - len(term.replace("...", "")) if "..." in term else 0
        for term, shape in zip(written, shapes, strict=False)
    ]
    most = max(ranks, default=0)
    terms = [_expand(term, most - rank, rank) for term, rank in zip(written, ranks, strict=False)]
    if arrow:
        return terms, set(_expand(right, 0, most))
    occurrences = Counter(label for term in terms for label in set(term))
    return terms, {label for label, count in occurrences.items() if count == 1 or label.startswith(".")}


def _expand(term: str, first: int, rank: int) -> list[str]:
    """Labels of a term; an ellipsis stands for axes numbered from the right."""
    if "..." not in term:
        return list(term)
    before, _, after = term.partition("...")
    return [*before, *(f".{first + axis}" for axis in range(rank)), *after]
