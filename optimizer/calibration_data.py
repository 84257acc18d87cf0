"""Calibration inputs from files and folders: images, NumPy arrays, text with a tokenizer; and from Python iterables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tersor.capture.torch import split_inputs
from tersor.errors import InputError, UsageError
from tersor.interface import Flat
from tersor.program import Program

MOST = 512
"""Inputs that are taken from an iterable; an endless one ends there."""

WHOLE = 64
"""Rows up to which a file is one input, where the batch is free; longer ones are cut into batches of `BATCH`."""

BATCH = 32

Rows = Mapping[str, Tensor]
"""Examples by input name, along the first axis."""


@dataclass(frozen=True)
class Files:
    """A file, or a folder with its sub-folders, of calibration inputs.

    ``.npy`` holds the examples of a model with one input, ``.npz`` one array per input name. Images are resized so
    that their shorter side fits, cut out in the middle, and scaled as ``pixels`` says. A line of ``.txt`` is one
    example for the tokenizer.

    Attributes:
        path: of the file or folder.
        tokenizer: a ``tokenizer.json`` (Hugging Face tokenizers), for text.
        pixels: "imagenet" (mean and deviation of ImageNet), "half" (-1 to 1), "unit" (0 to 1) or "none" (0 to 255).
        most: examples that are taken, spread evenly over all.
    """

    path: str | Path
    tokenizer: str | Path = ""
    pixels: str = "imagenet"
    most: int = 256

    def __post_init__(self) -> None:
        from tersor.calibration_images import PIXELS

        if self.pixels not in PIXELS:
            raise UsageError(f"pixels are {self.pixels!r}", f"wanted one of {', '.join(PIXELS)}")
        if not Path(self.path).exists():
            raise InputError(f"there is no calibration data at {str(self.path)!r}", "give a file or a folder")

    def __str__(self) -> str:
        return str(self.path)


def listed(given: Iterable[Any] | str | Path | Files) -> tuple[Any, ...]:
    """Calibration as the user gives it, as a sequence of inputs and files."""
    if isinstance(given, str | Path | Files):
        return (Files(given) if not isinstance(given, Files) else given,)
    return tuple(Files(item) if isinstance(item, str | Path) else item for item in islice(given, MOST))


def calibration_inputs(program: Program, given: Sequence[Any]) -> list[Flat]:
    """Flat inputs from whatever was given; raises InputError that says which one does not fit."""
    found: list[Flat] = []
    for place, item in enumerate(given, 1):
        where = f"calibration {str(item)!r}" if isinstance(item, Files) else f"calibration input {place}"
        try:
            made = list(_read(item, program)) if isinstance(item, Files) else [_flat(item, program)]
            for flat in made:
                program.check_inputs(flat)
        except InputError as error:
            raise InputError(f"{where}: {error.problem}", error.remedy) from None
        found += made
    return found


def _flat(item: Any, program: Program) -> Flat:
    return program.interface.flatten(*split_inputs(item))


def _read(files: Files, program: Program) -> Iterator[Flat]:
    from tersor import calibration_arrays as arrays
    from tersor import calibration_images as images
    from tersor import calibration_text as text

    root = Path(files.path)
    every = sorted(item for item in root.rglob("*") if item.is_file()) if root.is_dir() else [root]
    for kind, read in ((images.SUFFIXES, images.read), (arrays.SUFFIXES, arrays.read), (text.SUFFIXES, text.read)):
        chosen = [item for item in every if item.suffix.lower() in kind]
        if chosen:
            for rows in read(chosen, program, files):
                yield from batches(rows, program)
            return
    wanted = ", ".join((*images.SUFFIXES, *arrays.SUFFIXES, *text.SUFFIXES))
    raise InputError(f"none of its {len(every)} files is one that can be read", f"wanted {wanted}")


def batches(rows: Rows, program: Program) -> Iterator[Flat]:
    """Examples cut into inputs of a size that the program takes; a rest that fills no fixed batch is left out.

    Raises InputError where names differ, or there are too few examples.
    """
    names = program.interface.input_names
    if set(rows) != set(names):
        try:
            yield program.interface.flatten((), dict(rows))
        except InputError:
            raise
        except Exception:
            raise InputError(f"it holds {', '.join(rows)}", f"the model's inputs are {', '.join(names)}") from None
        return
    flat = tuple(rows[name].to(example.dtype) if _alike(rows[name], example) else rows[name]
                 for name, example in zip(names, program.inputs, strict=True))  # fmt: skip
    count, step = len(flat[0]) if flat[0].dim() else 1, _step(program, flat)
    if step is None or count == step:
        yield flat
        return
    if count < step:
        raise InputError(f"it holds {count} examples", f"the model takes {step} at once")
    for start in range(0, count - count % step, step):
        yield tuple(value[start : start + step] if batched else value
                    for value, batched in zip(flat, _batched(program, flat), strict=True))  # fmt: skip


def _alike(value: Tensor, example: Tensor) -> bool:
    """Whether a conversion to the example's dtype is one of width only."""
    both = value.is_floating_point() and example.is_floating_point()
    integers = {torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8}
    return both or (value.dtype in integers and example.dtype in (torch.int32, torch.int64))


def _step(program: Program, flat: Flat) -> int | None:
    """Examples of one input; None where the file is one input as it is."""
    size = program.sizes[0][0] if program.sizes and program.sizes[0] else None
    count = len(flat[0]) if flat[0].dim() else 1
    if size is None or not all(value.dim() for value in flat[:1]):
        return None
    if isinstance(size, int):
        return size
    return None if count <= WHOLE else BATCH


def _batched(program: Program, flat: Flat) -> list[bool]:
    first = program.sizes[0][0]
    count = len(flat[0])
    return [
        bool(sizes) and sizes[0] == first and value.dim() > 0 and len(value) == count
        for sizes, value in zip(program.sizes, flat, strict=True)
    ]
