"""Text: one example per line, turned into numbers by a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tersor.errors import InputError, UsageError
from tersor.program import Program

if TYPE_CHECKING:
    from tersor.calibration_data import Files, Rows

SUFFIXES = (".txt",)

BATCH = 8
"""Lines of one input where the batch is free: they are padded to the longest."""

LONGEST = 512
"""Tokens of a line where the length is free."""


def read(paths: Sequence[Path], program: Program, files: Files) -> Iterator[Rows]:
    """Batches of lines of like length, so that little is padded; raises InputError where there is no tokenizer."""
    if not files.tokenizer:
        raise InputError("text needs a tokenizer", "give --tokenizer tokenizer.json, or Files(path, tokenizer=...)")
    tokenizer = _tokenizer(Path(files.tokenizer))
    lines = [line for path in paths for line in _lines(path)]
    step = max(1, len(lines) // files.most)
    tokens = sorted((tokenizer.encode(line) for line in lines[::step][: files.most]), key=lambda found: len(found.ids))
    rows, length = _shape(program)
    size = rows or BATCH
    pad = _padding(tokenizer)
    for start in range(0, len(tokens) - (len(tokens) % size if rows else 0), size):
        yield _padded(tokens[start : start + size], program, length, pad)
    if len(tokens) < (rows or 1):
        raise InputError(f"it holds {len(tokens)} lines", f"the model takes {rows or 1} at once")


def _tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UsageError("reading text needs the package tokenizers", "pip install tokenizers") from None
    where = path / "tokenizer.json" if path.is_dir() else path
    try:
        return Tokenizer.from_file(str(where))
    except Exception as error:  # it raises plain Exception
        raise InputError(f"{str(where)!r} is no tokenizer: {error}", "give a tokenizer.json") from None


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is not UTF-8 text", "convert it") from None


def _shape(program: Program) -> tuple[int | None, int | None]:
    """Rows and tokens of an input, None where they are free."""
    if any(value.dim() != 2 or value.is_floating_point() for value in program.inputs):
        raise InputError("text is for models whose inputs are integers [batch, tokens]", "use .npz files")
    rows, length = program.sizes[0]
    return rows if isinstance(rows, int) else None, length if isinstance(length, int) else None


def _padding(tokenizer: Any) -> int:
    known = (tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>", "<|endoftext|>"))
    return next((number for number in known if number is not None), 0)


def _padded(tokens: Sequence[Any], program: Program, length: int | None, pad: int) -> Rows:
    longest = max(len(found.ids) for found in tokens)
    size = length or min(max(longest, 2), LONGEST)
    return {
        name: torch.tensor([_row(_column(found, name), size, 0 if _is_mask(name) else pad) for found in tokens])
        for name in program.interface.input_names
    }


def _is_mask(name: str) -> bool:
    return "mask" in name or "type" in name


def _column(found: Any, name: str) -> list[int]:
    if "mask" in name:
        return list(found.attention_mask)
    if "type" in name:
        return list(found.type_ids)
    if "position" in name:
        return list(range(len(found.ids)))
    return list(found.ids)


def _row(values: list[int], size: int, fill: int) -> list[int]:
    return (values + [fill] * size)[:size]
