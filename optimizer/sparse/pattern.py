"""N:M patterns: at most n of every m weights in a row that follow one another are not zero."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.errors import UsageError

_MOST_CHOICES = 20_000
"""Choices of a block that are still enumerated: 8:16 has 12,870."""


@dataclass(frozen=True)
class Pattern:
    """At most ``n`` of every ``m`` weights along the inputs of a layer are kept.

    Attributes:
        n: weights that stay in each block.
        m: weights in a block.

    >>> str(Pattern(2, 4)), Pattern(2, 4).density
    ('2:4', 0.5)
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise UsageError(f"{self.n}:{self.m} is no N:M pattern", "keep at least one and fewer than all, as in 2:4")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def density(self) -> float:
        """The part of the weights that stays."""
        return self.n / self.m

    @property
    def choices(self) -> int:
        """In how many ways the kept weights of a block can be chosen."""
        return math.comb(self.m, self.n)


def parse(text: str | Pattern) -> Pattern:
    """The pattern that a text such as "2:4" names; raises UsageError where it names none.

    >>> parse("4:8")
    Pattern(n=4, m=8)
    """
    if isinstance(text, Pattern):
        return text
    parts = text.split(":")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"{text!r} is no N:M pattern", "write the weights kept and the size of a block, as in 2:4")
    return Pattern(int(parts[0]), int(parts[1]))


def blocks(value: Tensor, pattern: Pattern) -> Tensor:
    """``[..., in]`` as ``[..., in / m, m]``, a view; raises UsageError where m does not divide the inputs."""
    if value.dim() == 0 or value.shape[-1] % pattern.m:
        inputs = value.shape[-1] if value.dim() else "no"
        raise UsageError(
            f"{inputs} inputs cannot be {pattern} sparse", f"a layer with a multiple of {pattern.m} inputs"
        )
    return value.unflatten(-1, (-1, pattern.m))


def is_pattern(weight: Tensor, pattern: Pattern) -> bool:
    """Whether at most n of each m weights are not zero; False where m does not divide the inputs.

    >>> is_pattern(torch.tensor([[1.0, 0.0, 0.0, 3.0]]), Pattern(2, 4))
    True
    """
    if weight.dim() == 0 or weight.shape[-1] % pattern.m:
        return False
    return bool((blocks(weight != 0, pattern).sum(-1) <= pattern.n).all())


def conforms(mask: Tensor, pattern: Pattern) -> bool:
    """Whether a mask is boolean and keeps exactly n of each m.

    >>> conforms(torch.tensor([[True, False, False, False]]), Pattern(2, 4))
    False
    """
    if mask.dtype != torch.bool or mask.dim() == 0 or mask.shape[-1] % pattern.m:
        return False
    return bool((blocks(mask, pattern).sum(-1) == pattern.n).all())


_FEW_ZEROS = 0.25
"""Share of zeros below which they are taken for chance, or for the layer's own."""


def support(weight: Tensor) -> Tensor | None:
    """Which weights a pruned layer has left, bool of the same shape; None for a layer that nobody pruned.

    Zeros are meant where they are a quarter of the weights or more, but not where they are all of them, as in a branch
    that starts at zero.

    >>> support(torch.tensor([0.0, 2.0, 3.0, 0.0])).tolist()
    [False, True, True, False]
    >>> support(torch.zeros(4)) is None
    True
    """
    kept = weight != 0
    share = 1 - float(kept.float().mean()) if kept.numel() else 0.0
    return kept if _FEW_ZEROS <= share < 1 else None


def every_choice(pattern: Pattern) -> Tensor:
    """All ways to keep n of m as masks, bool ``[choices, m]``; raises UsageError where they are too many to try.

    >>> every_choice(Pattern(1, 2)).tolist()
    [[True, False], [False, True]]
    """
    if pattern.choices > _MOST_CHOICES:
        raise UsageError(
            f"a block of {pattern} has {pattern.choices} choices", f"a pattern with {_MOST_CHOICES} or fewer"
        )
    kept = torch.tensor(list(itertools.combinations(range(pattern.m), pattern.n)))
    return torch.zeros(len(kept), pattern.m, dtype=torch.bool).scatter_(1, kept, True)
