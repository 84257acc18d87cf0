"""Axes: which dimension here is the same thing as which dimension there.

Every dimension of every tensor is a term over atomic axes; each ATen operator says how they flow; union-find makes
groups. Removing or permuting indices of a group is then one operation, the same for channels, heads and experts.
"""

from tersor.axes.analysis import Axes, analyze
from tersor.axes.groups import Group, Member, groups
from tersor.axes.proof import cut
from tersor.axes.remove import remove
from tersor.axes.select import Kept
from tersor.axes.zeroed import zeroed

__all__ = ["Axes", "Group", "Kept", "Member", "analyze", "cut", "groups", "remove", "zeroed"]
