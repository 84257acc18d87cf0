"""Calibration from files, folders and iterables."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from tersor.calibration_data import MOST, Files, calibration_inputs, listed
from tersor.capture import load
from tersor.errors import InputError, ModelFileError, UsageError
from tersor.program import Program


class Image(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3))


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 4)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return (self.table(input_ids) * attention_mask[..., None]).sum(1)


@pytest.fixture(scope="module")
def fixed() -> Program:
    return load(Image().eval(), (torch.zeros(2, 3, 6, 8),))


@pytest.fixture(scope="module")
def free() -> Program:
    return load(Image().eval(), (torch.zeros(2, 3, 6, 8),), dynamic={"image": {0: torch.export.Dim("batch")}})


@pytest.fixture(scope="module")
def text() -> Program:
    ids = torch.ones(2, 5, dtype=torch.int64)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    return load(Text().eval(), (ids, ids), dynamic={"input_ids": axes, "attention_mask": axes})


def shapes(program: Program, given: Any) -> list[tuple[int, ...]]:
    return [tuple(flat[0].shape) for flat in calibration_inputs(program, listed(given))]


def test_arrays_are_cut_into_batches(fixed: Program, free: Program, tmp_path: Path) -> None:
    values = numpy.random.default_rng(0).standard_normal((70, 3, 6, 8))
    numpy.save(tmp_path / "a.npy", values)
    assert shapes(fixed, tmp_path / "a.npy") == [(2, 3, 6, 8)] * 35
    assert shapes(free, str(tmp_path / "a.npy")) == [(32, 3, 6, 8)] * 2
    found = calibration_inputs(fixed, listed([tmp_path / "a.npy"]))
    assert found[1][0].dtype == torch.float32
    numpy.testing.assert_allclose(found[1][0].numpy(), values[2:4].astype("float32"))


def test_archives_hold_one_array_per_input(free: Program, text: Program, tmp_path: Path) -> None:
    numpy.savez(tmp_path / "a.npz", image=numpy.zeros((7, 3, 6, 8), "float32"))
    assert shapes(free, tmp_path / "a.npz") == [(7, 3, 6, 8)]
    ids = numpy.ones((3, 9), "int32")
    numpy.savez(tmp_path / "b.npz", input_ids=ids, attention_mask=ids)
    assert shapes(text, tmp_path / "b.npz") == [(3, 9)]


def test_single_examples_in_a_folder_are_put_together(fixed: Program, tmp_path: Path) -> None:
    for number in range(5):
        numpy.save(tmp_path / f"{number}.npy", numpy.full((3, 6, 8), number, "float32"))
    found = calibration_inputs(fixed, listed(tmp_path))
    assert [float(flat[0].mean()) for flat in found] == [0.5, 2.5], "the fifth fills no batch"


def test_images_are_fitted_and_scaled(fixed: Program, tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    for folder, colour in (("cats", (255, 0, 0)), ("dogs", (0, 0, 255))):
        (tmp_path / folder).mkdir()
        pillow.new("RGB", (20, 30), colour).save(tmp_path / folder / "1.png")
    (flat,) = calibration_inputs(fixed, listed(Files(tmp_path, pixels="unit")))
    assert flat[0].shape == (2, 3, 6, 8)
    assert flat[0][:, :, 0, 0].tolist() == [[1, 0, 0], [0, 0, 1]]
    (scaled,) = calibration_inputs(fixed, listed(tmp_path))
    assert scaled[0][0, 0, 0, 0].item() == pytest.approx((1 - 0.485) / 0.229)


def test_text_is_read_by_its_tokenizer(text: Program, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}
    (tmp_path / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
    }))  # fmt: skip
    (tmp_path / "lines.txt").write_text("a b a\n\nb c\n")
    (flat,) = calibration_inputs(text, listed(Files(tmp_path / "lines.txt", tokenizer=tmp_path)))
    assert flat[0].tolist() == [[3, 1, 0], [2, 3, 2]]
    assert flat[1].tolist() == [[1, 1, 0], [1, 1, 1]]
    with pytest.raises(InputError, match="text needs a tokenizer"):
        calibration_inputs(text, listed(tmp_path / "lines.txt"))


def test_an_endless_iterable_ends(fixed: Program) -> None:
    endless = ((torch.zeros(2, 3, 6, 8),) for _ in itertools.count())
    assert len(listed(endless)) == MOST


def test_bad_data_is_refused_with_its_name(fixed: Program, text: Program, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no calibration data at 'missing'"):
        listed("missing")
    with pytest.raises(UsageError, match="wanted one of imagenet"):
        Files(tmp_path, pixels="rgb")
    (tmp_path / "notes.md").write_text("nothing")
    with pytest.raises(InputError, match=r"none of its 1 files .* wanted .png"):
        calibration_inputs(fixed, listed(tmp_path))
    numpy.save(tmp_path / "one.npy", numpy.zeros((1, 3, 6, 8), "float32"))
    with pytest.raises(InputError, match="it holds 1 examples; the model takes 2 at once"):
        calibration_inputs(fixed, listed(tmp_path / "one.npy"))
    with pytest.raises(InputError, match="one array, and the model has 2 inputs"):
        calibration_inputs(text, listed(tmp_path / "one.npy"))
    numpy.savez(tmp_path / "wrong.npz", picture=numpy.zeros((2, 3, 6, 8), "float32"))
    with pytest.raises(InputError, match=r"wrong\.npz"):
        calibration_inputs(fixed, listed(tmp_path / "wrong.npz"))
    numpy.save(tmp_path / "pickled.npy", numpy.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ModelFileError, match="no plain numeric arrays"):
        calibration_inputs(fixed, listed(tmp_path / "pickled.npy"))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(InputError, match=r"broken\.png is no image"):
        calibration_inputs(fixed, listed(tmp_path / "broken.png"))
    with pytest.raises(InputError, match="calibration input 1"):
        calibration_inputs(fixed, listed([(torch.zeros(2, 4, 6, 8),)]))
