"""Groups of axes as plain values, for the command line and for pictures."""

from __future__ import annotations

from tersor.axes.analysis import analyze
from tersor.axes.groups import Group, groups
from tersor.program import Program
from tersor.report.model import GroupRecord


def summarize(program: Program) -> tuple[list[GroupRecord], dict[str, str]]:
    """Groups in graph order, and why dimensions are not followed through some nodes, by node name."""
    axes = analyze(program)
    return [_record(item) for item in groups(program, axes)], dict(axes.unknown)


def _record(group: Group) -> GroupRecord:
    return GroupRecord(
        name=group.name,
        kind=group.kind,
        size=group.size,
        members=[f"{member.weight}[{member.dim}]" for member in group.members],
        producers=list(group.producers),
        consumers=list(group.consumers),
        spans=list(group.spans),
        pin=group.pin,
    )
