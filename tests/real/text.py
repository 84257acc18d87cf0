"""Real English text that every Python carries: the prose of its language reference."""

from __future__ import annotations

import ast
import functools
import re
import sysconfig
from pathlib import Path

_SENTENCE = re.compile(r"[A-Z][A-Za-z ,'-]+[.]")


@functools.cache
def sentences(least: int = 6, most: int = 25) -> tuple[str, ...]:
    """Different sentences of ``least`` to ``most`` words, without code or brackets; the same in every run."""
    from pydoc_data import topics

    return _sentences_of(" ".join(topics.topics.values()), least, most)


@functools.cache
def many_sentences(least: int = 6, most: int = 25) -> tuple[str, ...]:
    """Those of `sentences`, and behind them those of the docstrings of the standard library's modules: thousands."""
    docs = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docs += [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    return tuple(dict.fromkeys((*sentences(least, most), *_sentences_of("\n".join(docs), least, most))))


def _sentences_of(text: str, least: int, most: int) -> tuple[str, ...]:
    parts = re.split(r"(?<=[.!?]) ", re.sub(r"\s+", " ", text))
    found = [part for part in parts if _SENTENCE.fullmatch(part)]
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
