"""What belongs together in a pipeline: a pass, and those that only prepare for it."""

from __future__ import annotations

from collections.abc import Iterator

from tersor.search.order import PREPARES
from tersor.search.trial import Choice, Selection


def prepares(item: Choice, name: str) -> bool:
    """Whether a choice is one that lets a pass of this name lose less."""
    return name in PREPARES.get(item.name, ())


def parts(selection: Selection) -> Iterator[Selection]:
    """Each pass with those of the pipeline that prepare for it."""
    for choice in selection:
        if choice.name not in PREPARES:
            yield tuple(item for item in selection if item is choice or prepares(item, choice.name))


def is_part(selection: Selection) -> bool:
    """Whether a pipeline is a single pass, or that and what prepares for it."""
    return len(list(parts(selection))) == 1


def without(selection: Selection, left_out: Choice) -> Selection:
    """A pipeline without one of its passes, nor what prepared for that alone."""
    rest = [item for item in selection if item is not left_out]
    return tuple(
        item for item in rest if item.name not in PREPARES or any(prepares(item, other.name) for other in rest)
    )


def milder(left: Selection, right: Selection) -> bool:
    """Whether every pass of the first pipeline is in the second, at the same setting or a harsher one.

    Not where something that only the second holds prepares for one of them. Settings of one pass for different backends
    are not milder or harsher than each other, but are close enough.
    """
    levels = {item.name: item.level for item in right}
    names = {item.name for item in left}
    if any(item.name not in names and prepares(item, name) for item in right for name in names):
        return False
    return bool(left) and all(item.name in levels and item.level <= levels[item.name] for item in left)
