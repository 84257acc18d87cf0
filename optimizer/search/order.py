"""In which order passes are applied, and which may not meet: data, each row with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from tersor.context import Pass
from tersor.errors import UsageError
from tersor.spec import render_one


@dataclass(frozen=True)
class Stage:
    """Passes that change one kind of thing.

    Attributes:
        name: what they change.
        passes: their names, in order.
        reason: why it stands where it does.
    """

    name: str
    passes: tuple[str, ...]
    reason: str


STAGES = (
    Stage("attention form", ("recognise-attention",), "what follows looks for attention as one operator"),
    Stage("depth", ("prune-layers",), "nothing is spent on a block that goes anyway"),
    Stage(
        "attention",
        ("substitute-attention", "reuse-attention"),
        "heads and widths are cut where attention is already what it will be",
    ),
    Stage(
        "tokens",
        ("freeze-tokens", "merge-tokens", "prune-tokens"),
        "scores of tokens are taken from whole layers, before these are cut",
    ),
    Stage(
        "width",
        ("prune", "prune-width", "prune-heads", "prune-channels", "prune-mlp", "prune-experts"),
        "factors are found for what is left of a layer",
    ),
    Stage(
        "factors",
        ("moefy", "tucker", "cp", "separable", "low-rank", "block-diagonal"),
        "zeros and formats belong to the weights that there will be",
    ),
    Stage("permutation", ("permute",), "indices are reordered before the pattern is laid over them"),
    Stage("pattern", ("sparsify",), "rounding keeps zeros, while a later cut would move them"),
    Stage("range", ("rotate", "equalize", "smooth"), "channels are evened out before they are rounded"),
    Stage(
        "format",
        ("quantize", "quantize-dynamic", "quantize-weights", "cast"),
        "the last word: what is rounded is no longer fitted to anything",
    ),
)
"""The order of all passes that the planner may choose, first to last."""

PREPARES = {
    "rotate": ("quantize", "quantize-dynamic"),
    "equalize": ("quantize",),
    "smooth": ("quantize", "quantize-dynamic"),
}
"""Passes that change no result and save nothing, and those that lose less behind them; tried only in front of these."""

OTHERS = "tokens"
"""Where passes stand that no stage names: behind this one."""

CLEAN = ("canonicalize", "remove-noops", "dead-code")
"""Exact passes that run behind every chosen one, so that the next finds a tidy graph."""

ROUNDED = ("quantize", "quantize-dynamic", "quantize-weights")
CUTS = ("prune", "prune-width", "prune-heads", "prune-channels", "prune-mlp", "prune-experts", "prune-layers")
FACTORS = ("moefy", "tucker", "cp", "separable", "low-rank", "block-diagonal")


@dataclass(frozen=True)
class Exclusion:
    """Passes that may not follow others in one pipeline.

    Attributes:
        first, then: names; none of ``then`` may come after any of ``first``.
        reason: why, as the user reads it.
    """

    first: tuple[str, ...]
    then: tuple[str, ...]
    reason: str


EXCLUSIONS = (
    Exclusion(ROUNDED, CUTS, "its weights are rounded by then, and what a cut damages could not be repaired"),
    Exclusion(ROUNDED, FACTORS, "its weights are rounded by then, and have no factors"),
    Exclusion(ROUNDED, ("sparsify", "permute"), "its weights are rounded by then, and can only be cut worse"),
    Exclusion(ROUNDED, ROUNDED, "a layer's weights have one format"),
    Exclusion(("sparsify",), CUTS, "removing indices moves those behind them out of their groups of four"),
    Exclusion(("sparsify",), FACTORS, "the factors of a matrix with zeros have none"),
    Exclusion(("sparsify",), ("permute",), "another order moves weights out of their groups of four"),
)
"""What is refused before any work."""


def order() -> tuple[str, ...]:
    """The names of all stages' passes, first to last."""
    return tuple(name for stage in STAGES for name in stage.passes)


def place(name: str) -> tuple[int, int]:
    """Where a pass stands: its stage, and its position there; one that no stage names stands behind `OTHERS`."""
    for index, stage in enumerate(STAGES):
        if name in stage.passes:
            return index, stage.passes.index(name)
    return next(index for index, stage in enumerate(STAGES) if stage.name == OTHERS), len(name)


def name_of(item: Pass) -> str:
    """The name of a pass without its options."""
    return render_one(item).partition("{")[0]


def objection(first: str, then: str) -> str:
    """Why the second pass may not come after the first; empty where it may.

    >>> objection("prune", "quantize"), objection("quantize", "quantize-weights")
    ('', "a layer's weights have one format")
    """
    return next((rule.reason for rule in EXCLUSIONS if first in rule.first and then in rule.then), "")


def legal(names: Sequence[str]) -> bool:
    """Whether passes of these names may follow each other in this order."""
    return not any(objection(first, then) for first, then in combinations(names, 2))


def check(passes: Iterable[Pass]) -> None:
    """Raise UsageError for the first two passes that may not follow each other."""
    for first, then in combinations([name_of(item) for item in passes], 2):
        if reason := objection(first, then):
            turned = "" if objection(then, first) else f"; put {then} before {first}"
            raise UsageError(f"{then} after {first}: {reason}", f"leave one of them out{turned}")
