"""PP-OCRv4 as the package `rapidocr-onnxruntime` ships it: detection, angle, recognition; and pages to read."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

FILES = {
    "det": "ch_PP-OCRv4_det_infer.onnx",
    "rec": "ch_PP-OCRv4_rec_infer.onnx",
    "cls": "ch_ppocr_mobile_v2.0_cls_infer.onnx",
}
WIDTH, HEIGHT, LINES = 1200, 736, 8
"""A page: not smaller than what detection would scale up, with room for eight lines of 48 points."""

SIZES = {
    "det": ((1, 3, 256, 640), (2, 3, 320, 448)),
    "rec": ((1, 3, 48, 320), (3, 3, 48, 161)),
    "cls": ((1, 3, 48, 192), (5, 3, 48, 192)),
}
"""Two sizes at which every dynamic axis differs, as far as the file's users let it."""


def file(part: str) -> Path:
    """The package's file of one part, found without importing the package."""
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "models" / FILES[part]


def feeds(part: str) -> list[dict[str, np.ndarray]]:
    """Pieces of pages at two sizes: in random images there is no text, and every score would be next to 0."""
    page = _page(["Detection finds these words,", "the angle tells up from down,", "recognition reads."]) / 127.5 - 1
    return [{"x": _pieces(page.astype(np.float32), size)} for size in SIZES[part]]


def _pieces(page: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    count, _, height, width = size
    cut = [page[40 * number + 30 :, 30 * number + 30 :][:height, :width] for number in range(count)]
    return np.ascontiguousarray(np.stack(cut).transpose(0, 3, 1, 2))


def pages(text: list[str]) -> list[np.ndarray]:
    """Pictures of the lines, black on white, eight on a page; every second page is upside down."""
    made = [_page(text[start : start + LINES]) for start in range(0, len(text), LINES)]
    return [page if number % 2 == 0 else np.ascontiguousarray(page[::-1, ::-1]) for number, page in enumerate(made)]


def _page(text: list[str]) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=48)
    page = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(text):
        draw.text((40, 30 + 85 * number), line, fill="black", font=font)
    return np.asarray(page)


def crops(text: list[str]) -> list[np.ndarray]:
    """What recognition is given for each line: cut out tightly, 48 high and as wide as it gets, [1, 3, 48, width]."""
    from PIL import Image, ImageDraw, ImageFont

    font, made = ImageFont.load_default(size=48), []
    for line in text:
        page = Image.new("RGB", (WIDTH, 90), "white")
        draw = ImageDraw.Draw(page)
        draw.text((20, 15), line, fill="black", font=font)
        left, top, right, bottom = draw.textbbox((20, 15), line, font=font)
        cut = page.crop((left - 6, top - 6, right + 6, bottom + 6))
        scaled = np.asarray(cut.resize((round(cut.width * 48 / cut.height), 48)), dtype=np.float32) / 127.5 - 1
        made.append(np.ascontiguousarray(scaled.transpose(2, 0, 1))[None])
    return made


def read(text_pages: list[np.ndarray], **paths: Path) -> tuple[list[str], list[float]]:
    """The lines that the whole pipeline reads, and their scores; ``paths`` replace parts: ``rec=path``."""
    from rapidocr_onnxruntime import RapidOCR

    reader: Any = RapidOCR(**{f"{part}_model_path": str(path) for part, path in paths.items()})
    found = [line for page in text_pages for line in reader(page)[0] or []]
    return [line[1] for line in found], [float(line[2]) for line in found]


def likeness(wanted: list[str], got: list[str]) -> float:
    """Share of characters read rightly, whatever the order of the lines; spaces do not count.

    >>> likeness(["ab c", "de"], ["de", "abx"])
    0.8
    """
    first, second = ("".join("".join(line.split()) for line in sorted(part)) for part in (wanted, got))
    return round(difflib.SequenceMatcher(None, first, second, autojunk=False).ratio(), 4)
