"""How a kernel is cut into blocks on one architecture: sizes, warps, stages of the pipeline of loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tile:
    """One way to cut a kernel.

    Attributes:
        warps: of a block of threads.
        stages: loads that are under way at a time.
        blocks: constants of the kernel by name.
    """

    warps: int
    stages: int
    blocks: Mapping[str, int] = field(default_factory=dict, hash=False)


def tile(warps: int, stages: int, **blocks: int) -> Tile:
    """A tile as a table writes it.

    >>> tile(4, 3, BLOCK=64).blocks
    {'BLOCK': 64}
    """
    return Tile(warps, stages, blocks)


Table = Mapping[int, Sequence[tuple[int, Tile]]]
"""By compute capability: tiles with the size up to which each is meant, ascending."""


def chosen(table: Table, capability: int, size: int) -> Tile:
    """The first tile that is meant for the size, or the last one.

    >>> chosen({80: [(16, tile(4, 3, ROWS=16)), (64, tile(8, 3, ROWS=64))]}, 80, 20).warps
    8
    """
    rows = table[capability]
    return next((made for limit, made in rows if size <= limit), rows[-1][1])
