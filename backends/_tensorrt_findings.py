"""A list of findings in which the same problem at many nodes is said once."""

from __future__ import annotations

from collections.abc import Iterable

from tersor.backend import Finding

Noted = tuple[str, str, str, bool]
"""Node, problem, remedy, and whether TensorRT refuses the model for it."""


def gathered(notes: Iterable[Noted]) -> list[Finding]:
    """One finding for each problem, at the first of its nodes; what is refused comes first.

    >>> [found.problem for found in gathered([("a", "slow", "", False), ("b", "slow", "", False)])]
    ['slow (here and at 1 more)']
    """
    nodes: dict[tuple[str, str, bool], list[str]] = {}
    for node, problem, remedy, fatal in notes:
        places = nodes.setdefault((problem, remedy, fatal), [])
        if node not in places:
            places.append(node)
    found = [
        Finding(places[0], problem + _more(len(places) - 1), remedy, fatal)
        for (problem, remedy, fatal), places in nodes.items()
    ]
    return sorted(found, key=lambda finding: not finding.fatal)


def _more(count: int) -> str:
    return f" (here and at {count} more)" if count else ""
