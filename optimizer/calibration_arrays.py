"""NumPy files: ``.npy`` for models with one input, ``.npz`` with one array per input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tersor.errors import InputError, ModelFileError
from tersor.program import Program

if TYPE_CHECKING:
    from tersor.calibration_data import Files, Rows

SUFFIXES = (".npy", ".npz")


def read(paths: Sequence[Path], program: Program, files: Files) -> Iterator[Rows]:
    """Each file's arrays; ``.npy`` files that hold one example each are put together.

    Raises InputError where a ``.npy`` file meets a model with several inputs, ModelFileError for damaged files.
    """
    names = program.interface.input_names
    singles: list[Tensor] = []
    for path in spread(paths, files.most):
        if path.suffix.lower() == ".npz":
            yield archive(path)
            continue
        if len(names) != 1:
            raise InputError(f"{path.name} is one array, and the model has {len(names)} inputs", "use .npz files")
        array = _array(path)
        if array.dim() == len(program.sizes[0]) - 1:
            singles.append(array)
        else:
            yield {names[0]: array[: files.most]}
    if singles:
        if len({value.shape for value in singles}) > 1:
            raise InputError("its .npy files hold examples of different shapes", "give each a batch axis of 1")
        yield {names[0]: torch.stack(singles)}


def spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many of the paths, evenly spread, so that no folder of a class is left out.

    >>> [path.name for path in spread([Path("a"), Path("b"), Path("c"), Path("d")], 2)]
    ['a', 'c']
    """
    if len(paths) <= most:
        return list(paths)
    return [paths[place * len(paths) // most] for place in range(most)]


def archive(path: Path) -> dict[str, Tensor]:
    """Tensors by name; pickled content is refused with ModelFileError."""
    import numpy

    try:
        with numpy.load(path, allow_pickle=False) as found:
            return {name: torch.from_numpy(found[name]) for name in found.files}
    except Exception as error:  # zipfile, numpy and torch each have their own
        raise _damaged(path, error) from None


def _array(path: Path) -> Tensor:
    import numpy

    try:
        return torch.from_numpy(numpy.load(path, allow_pickle=False))
    except Exception as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ModelFileError:
    line = (str(error) or type(error).__name__).splitlines()[0]
    return ModelFileError(f"{str(path)!r} holds no plain numeric arrays: {line}", "write it with numpy.savez or save")
