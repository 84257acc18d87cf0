import pytest
import torch

from tersor.models_zoo import load
from tersor.models_zoo.data import WINDOW
from tersor.models_zoo.data import load as load_data
from tersor.models_zoo.evaluate import Likelihood, evaluator


def test_labels_are_the_bytes_that_come_next():
    prose = load_data("prose")
    for split in (prose.train, prose.test):
        (tokens,) = split.inputs
        assert tokens.shape == split.labels.shape == (len(split), WINDOW)
        assert torch.equal(tokens.flatten()[1:], split.labels.flatten()[:-1])
    assert 0.05 < len(prose.test) / len(prose.train) < 0.2
    assert "the" in bytes(prose.test.inputs[0].flatten().tolist()).decode(errors="replace")


def test_no_paragraph_is_in_both_halves():
    prose = load_data("prose")
    train, test = (
        set(bytes(split.inputs[0].flatten().tolist()).decode(errors="replace").split("\n\n"))
        for split in (prose.train, prose.test)
    )
    assert not {part for part in test if len(part) > 40} & train


@pytest.mark.parametrize("batch", [7, 400])
def test_perplexity_of_a_model_that_knows_nothing_is_the_number_of_bytes(batch):
    judge = Likelihood("prose", batch)
    assert judge.perplexity(lambda tokens: torch.zeros(*tokens.shape, 256)) == pytest.approx(256)
    assert judge(lambda tokens: (torch.zeros(*tokens.shape, 256),)) == pytest.approx(1 / 256)


def test_the_trained_model_reads_on():
    entry = load("zoo:tiny-lm")
    assert isinstance(entry.evaluator, Likelihood)
    assert entry.evaluator == evaluator("prose")
    text = "The following table lists the methods of the obj"
    with torch.no_grad():
        logits = entry.model(torch.tensor([list(text.encode())]))
    assert chr(int(logits[0, -1].argmax())) == "e"
