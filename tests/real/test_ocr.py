"""PP-OCRv4 from the command line: the text that it reads stays the same, and its dynamic axes stay dynamic."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real import command, compare, ocr
from tests.real.packages import needs
from tests.real.text import lines

pytestmark = [needs("rapidocr_onnxruntime", "PIL"), pytest.mark.filterwarnings("ignore::DeprecationWarning:cv2")]


def assert_same(part: str, made: command.Done) -> None:
    source = ocr.file(part)
    assert not made.verbatim and not made.dropped
    assert compare.interface_problem(source, made.path) == ""
    assert compare.nodes(made.path) < compare.nodes(source)
    assert compare.largest_difference(source, made.path, ocr.feeds(part)) < compare.TOLERANCE


def test_recognition_reads_the_same_text(tmp_path: Path) -> None:
    made = command.optimize(ocr.file("rec"), tmp_path / "rec.onnx")
    text = lines(3)
    pages = ocr.pages(text)
    got, _ = ocr.read(pages, rec=made.path)
    assert got == ocr.read(pages)[0]
    assert ocr.likeness(text, got) > 0.98
    assert_same("rec", made)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_pipeline_reads_the_same_text(tmp_path: Path) -> None:
    made = {part: command.optimize(ocr.file(part), tmp_path / f"{part}.onnx") for part in ocr.FILES}
    for part, done in made.items():
        assert_same(part, done)
    pages = ocr.pages(lines(24))
    wanted, scores = ocr.read(pages)
    got, new_scores = ocr.read(pages, **{part: done.path for part, done in made.items()})
    assert got == wanted and len(got) >= 20
    assert new_scores == pytest.approx(scores, abs=1e-4)
