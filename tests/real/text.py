"""Real English text that every Python carries: the prose of its language reference."""

from __future__ import annotations

import functools
import re

_SENTENCE = re.compile(r"[A-Z][A-Za-z ,'-]+[.]")


@functools.cache
def sentences(least: int = 6, most: int = 25) -> tuple[str, ...]:
    """Different sentences of ``least`` to ``most`` words, without code or brackets; the same in every run."""
    from pydoc_data import topics

    prose = re.sub(r"\s+", " ", " ".join(topics.topics.values()))
    found = [part for part in re.split(r"(?<=[.!?]) ", prose) if _SENTENCE.fullmatch(part)]
    return tuple(dict.fromkeys(part for part in found if least <= len(part.split()) <= most))


def lines(count: int, longest: int = 42) -> list[str]:
    """Sentences that are short enough for one line of a page."""
    return [part for part in sentences(3) if len(part) <= longest][:count]


def phrases(count: int, longest: int = 36) -> list[str]:
    """Different stretches of whole words of prose, each as long as fits on one line of a page."""
    words = " ".join(sentences(3)).split()
    found: dict[str, None] = {}
    line = ""
    for word in words:
        if len(line) + 1 + len(word) > longest:
            found[line] = None
            line = word
        else:
            line = f"{line} {word}".strip()
    return list(found)[:count]
