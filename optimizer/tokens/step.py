"""One reduction step on tensors: a method chooses, features are averaged or dropped, positions and sizes follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from tersor.tokens.matrix import (
    averaged,
    gathered,
    joined_rest,
    merged,
    nearest,
    places,
    places_by_sets,
    summed,
    survivors,
    survivors_by_sets,
)
from tersor.tokens.prune import fused
from tersor.tokens.rates import Rate

Made: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""New tokens [B, K, C], their place [B, T] for every original token, the originals kept [B, K], sizes [B, K, 1]."""


@dataclass(frozen=True)
class Given:
    """What a method may look at.

    Attributes:
        x: [B, T, C] features.
        metric: [B, T, D] keys averaged over heads.
        attention: [B, H, Q, T] weights of the layer before, Q = 1 where only one token's were asked for.
        size: [B, T, 1] or None.
        padding: [B, T] Boolean or None.
        count: so many tokens go.
        first, last: so many in front and behind stay.
        depth: share of the layers that lie before.
        grid: rows and columns of the tokens between those, where they are known.
    """

    x: Tensor
    metric: Tensor
    attention: Tensor | None
    size: Tensor | None
    padding: Tensor | None
    count: int
    first: int
    last: int = 0
    depth: float = 0.0
    grid: tuple[int, int] | None = None

    @property
    def left(self) -> int:
        """How many tokens stay."""
        return self.x.shape[1] - self.count

    @property
    def weights(self) -> Tensor:
        """The attention, for a method that asked for it."""
        assert self.attention is not None
        return self.attention

    @property
    def sizes(self) -> Tensor:
        """[B, T] sizes, 1 where none are known."""
        return torch.ones_like(self.x[:, :, 0]) if self.size is None else self.size[:, :, 0]


Needs: TypeAlias = Literal["keys", "class", "last", "all"]
"""Attention weights that a method looks at: none, those of the first token, of the last, of all tokens."""


@dataclass(frozen=True)
class Method:
    """A way to choose.

    Attributes:
        choose: gives parents [B, T] ("merge"), the kept [B, K] ("prune"), or for "fuse" (scores [B, T], kept), all
            but which become one more token.
        weigh: gives weights [B, T] of features in an average, beside sizes.
        limit: how many tokens may go at once: "half" of them, each into another, "all" but one, or three of each
            "cell" of four.
        sets: whether tokens at even places that stay come before all at odd places, where at most one is protected.
    """

    kind: Literal["merge", "prune", "fuse"]
    needs: Needs
    choose: Callable[[Given], Tensor | tuple[Tensor, Tensor]]
    weigh: Callable[[Given], Tensor] | None = None
    limit: Literal["half", "all", "cell"] = "half"
    sets: bool = False

    def most(self, tokens: int, first: int, last: int = 0) -> int:
        """So many of the tokens may go at once, where some are protected.

        >>> Method("merge", "keys", lambda given: given.x).most(197, 1)
        98
        """
        free = tokens - first - last
        if self.limit == "half":
            end = tokens - last
            even, odd = (end + 1) // 2 - (first + 1) // 2, end // 2 - first // 2
            return max(0, min(even, odd))
        return max(0, free - 1 if self.limit == "all" else free // 4 * 3)


@dataclass(frozen=True)
class Step:
    """A method with its numbers, as a function of tensors.

    Attributes:
        rate: how many tokens go.
        first, last: so many in front and behind stay.
        depth: share of the layers that lie before.
        padded: whether sizes of 0 stand for padding.
    """

    method: Method
    rate: Rate
    first: int
    last: int = 0
    depth: float = 0.0
    padded: bool = False
    grid: tuple[int, int] | None = None

    def __call__(
        self, x: Tensor, key: Tensor, attention: Tensor | None, size: Tensor | None, place: Tensor | None,
        kept: Tensor | None,
    ) -> Made:  # fmt: skip
        """Reduce ``x`` [B, T, C]; ``key`` is [B, H, T, D] or [B, T, D], place and kept are those so far."""
        metric = key.mean(1) if key.dim() == 4 else key
        padding = size[:, :, 0] == 0 if self.padded and size is not None else None
        count = self.rate.of(x.shape[1])
        given = Given(x, metric, attention, size, padding, count, self.first, self.last, self.depth, self.grid)
        made = {"merge": _merge, "prune": _prune, "fuse": _fuse}[self.method.kind](self.method, given)
        new, here, chosen, sizes = made
        here = here if place is None else here.gather(1, place)
        chosen = chosen if kept is None else kept.gather(1, chosen)
        return new, here, chosen, sizes


def _merge(method: Method, given: Given) -> Made:
    parent = method.choose(given)
    assert isinstance(parent, Tensor)
    count = given.left
    if method.sets and given.first <= 1 and not given.last:
        place, stay = places_by_sets(parent, count), survivors_by_sets(parent, count)
    else:
        place, stay = places(parent), survivors(parent, count)
    size = given.sizes[:, :, None]
    if method.weigh is not None:
        x, sizes = averaged(given.x, place, size * method.weigh(given)[:, :, None], size, stay)
    elif given.size is None:
        sizes = summed(size, place, stay)
        x = summed(given.x, place, stay) / sizes
    else:
        x, sizes = merged(given.x, place, size, stay)
    return x, place, stay, sizes


def _prune(method: Method, given: Given) -> Made:
    kept = method.choose(given)
    assert isinstance(kept, Tensor)
    size = None if given.size is None else gathered(given.size, kept)
    return gathered(given.x, kept), nearest(given.metric, kept), kept, size


def _fuse(method: Method, given: Given) -> Made:
    found = method.choose(given)
    assert isinstance(found, tuple)
    score, kept = found
    place, weight = fused(score, kept)
    size = given.sizes[:, :, None]
    x, sizes = joined_rest(given.x, kept, size * weight[:, :, None], size)
    head = score.scatter(1, kept, -1.0).max(1, keepdim=True).indices
    return x, place, torch.cat([kept, head], dim=1), sizes
