"""Groups of axes as plain values, for the command line and for pictures."""

from __future__ import annotations

from typing import Any

from tersor.axes.analysis import analyze
from tersor.axes.groups import Group, groups
from tersor.program import Program


def summarize(program: Program) -> dict[str, Any]:
    """Groups in graph order with size, kind, members, producers, consumers and pins, and the nodes without a rule."""
    axes = analyze(program)
    return {"groups": [_group(item) for item in groups(program, axes)], "unknown": dict(axes.unknown)}


def _group(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "kind": group.kind,
        "size": group.size,
        "members": [f"{member.weight}[{member.dim}]" for member in group.members],
        "producers": list(group.producers),
        "consumers": list(group.consumers),
        "spans": list(group.spans),
        "pin": group.pin,
    }
