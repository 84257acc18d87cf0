"""Images: resized, cut out in the middle, scaled as the model was trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tersor.calibration_arrays import spread
from tersor.errors import InputError, UsageError
from tersor.program import Program

if TYPE_CHECKING:
    from tersor.calibration_data import Files, Rows

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")

PIXELS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 255.0),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 255.0),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 255.0),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0),
}
"""Mean, deviation, and what stands for white."""


def read(paths: Sequence[Path], program: Program, files: Files) -> Iterator[Rows]:
    """All images as one array; raises InputError where the model takes none, or a file is none."""
    name, channels, height, width, last = _wanted(program)
    values = [_image(path, channels, height, width) for path in spread(paths, files.most)]
    stack = torch.stack(values)
    if not program.inputs[0].is_floating_point():
        stack = stack.round().to(program.inputs[0].dtype)
    else:
        mean, deviation, white = PIXELS[files.pixels]
        shift, scale = (torch.tensor(row[:channels] if channels == 3 else (sum(row) / 3,)) for row in (mean, deviation))
        stack = (stack / white - shift[:, None, None]) / scale[:, None, None]
    yield {name: stack.movedim(1, -1).contiguous() if last else stack}


def _wanted(program: Program) -> tuple[str, int, int, int, bool]:
    """Name, channels, height, width of the image input, and whether channels are its last axis."""
    names = program.interface.input_names
    if len(names) != 1 or program.inputs[0].dim() != 4:
        raise InputError("images are for models with one input of four axes", "use .npz files, one array per input")
    _, first, height, width = program.inputs[0].shape
    if first in (1, 3):
        return names[0], int(first), int(height), int(width), False
    if width in (1, 3):
        return names[0], int(width), int(first), int(height), True
    raise InputError(f"the model's input has {first} channels", "use .npy files")


def _image(path: Path, channels: int, height: int, width: int) -> Tensor:
    """Float32 [channels, height, width], 0 to 255."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise UsageError("reading images needs Pillow", "pip install pillow, or use .npy files") from None
    import numpy

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB" if channels == 3 else "L")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path.name} is no image: {error}", "remove it, or repair it") from None
    fitted = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    array = torch.from_numpy(numpy.asarray(fitted, dtype=numpy.float32).copy())
    return array.movedim(-1, 0) if channels == 3 else array[None]
