"""How many tokens go at each layer: fixed numbers, or shares where the number of tokens differs from call to call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tersor.errors import UsageError

PARTS = 64
"""Shares are so many parts of a whole, which integers express exactly in any runtime."""


@dataclass(frozen=True)
class Rate:
    """So many tokens go: ``count``, or ``parts`` of 64 of those that there are, rounded down."""

    count: int = 0
    parts: int = 0

    def of(self, tokens: Any) -> Any:
        """The number of tokens that go, out of a number or a symbolic size.

        >>> Rate(count=3).of(10), Rate(parts=16).of(10)
        (3, 2)
        """
        return tokens * self.parts // PARTS if self.parts else self.count


def schedule(tokens: int, layers: int, share: float, shape: str = "constant") -> list[int]:
    """Tokens to remove at each of ``layers`` layers, so that ``share`` of them is gone behind the last.

    "constant" removes as many everywhere (ToMe, arXiv:2210.09461), "decreasing" twice as many at first and none at the
    end, "early" all at the first layer.

    >>> schedule(196, 4, 0.5), schedule(196, 4, 0.5, "decreasing"), schedule(196, 4, 0.5, "early")
    ([24, 25, 25, 24], [43, 31, 18, 6], [98, 0, 0, 0])
    """
    total = round(share * tokens)
    weights = {
        "constant": [1.0] * layers,
        "decreasing": [2.0 * (layers - place) - 1.0 for place in range(layers)],
        "early": [1.0] + [0.0] * (layers - 1),
    }[shape]
    whole, passed = sum(weights), 0.0
    made: list[int] = []
    for weight in weights:
        passed += weight
        made.append(round(total * passed / whole) - sum(made))
    return made


def shares(layers: int, share: float, shape: str = "constant") -> list[int]:
    """As `schedule`, in parts of 64 of the tokens that reach each layer.

    >>> shares(3, 0.5)
    [11, 13, 16]
    """
    left, made = 1.0, []
    for count in schedule(100_000, layers, share, shape):
        made.append(round(PARTS * count / 100_000 / left))
        left *= 1 - made[-1] / PARTS
    return made


def chosen(layers: Sequence[Any], wanted: str) -> list[int]:
    """Which layers, from text: empty for all, ``"0+2"`` for two of them, ``"2-"`` from the third on.

    >>> chosen("abcd", "0+2"), chosen("abcd", "2-"), chosen("abcd", "")
    ([0, 2], [2, 3], [0, 1, 2, 3])
    """
    if not wanted:
        return list(range(len(layers)))
    found: list[int] = []
    for part in wanted.split("+"):
        first, dash, last = part.partition("-")
        try:
            start = int(first)
            end = start if not dash else int(last) if last else len(layers) - 1
        except ValueError:
            raise UsageError(f"layers is {wanted!r}", 'wanted numbers such as "0+2", "1-3" or "2-"') from None
        found += range(start, end + 1)
    return [place for place in sorted(set(found)) if place < len(layers)]


def protected(wanted: str) -> tuple[int | None, int | None]:
    """Tokens that stay in front and behind, from text; None for what is not said.

    >>> protected("35+20"), protected("1"), protected("")
    ((35, 20), (1, None), (None, None))
    """
    if not wanted:
        return None, None
    first, plus, last = wanted.partition("+")
    if not first.isdecimal() or (plus and not last.isdecimal()):
        raise UsageError(f"protect is {wanted!r}", 'wanted numbers of tokens such as "1" or "35+20"')
    return int(first), int(last) if plus else None
