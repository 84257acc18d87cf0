import dataclasses

import pytest
import torch

from tersor.models_zoo import load
from tersor.models_zoo.data import load as load_data
from tersor.models_zoo.evaluate import Accuracy, Calibration


def oracle(right: int):
    """A model that knows the first ``right`` test labels and is wrong about the others."""
    labels = load_data("names").test.labels
    wanted = torch.where(torch.arange(len(labels)) < right, labels, (labels + 1) % 8)
    lookup = dict(zip(map(tuple, load_data("names").test.inputs[0].tolist()), wanted.tolist(), strict=True))
    return lambda tokens, mask: torch.eye(8)[[lookup[tuple(row)] for row in tokens.tolist()]]


@pytest.mark.parametrize("batch", [1, 7, 100, 5000])
def test_accuracy_counts_each_example_once(batch):
    count = len(load_data("names").test)
    assert Accuracy("names", batch)(oracle(count)) == 1.0
    assert Accuracy("names", batch)(oracle(100)) == pytest.approx(100 / count)


def test_accuracy_of_a_fixed_batch():
    entry = load("zoo:text-encoder")
    assert isinstance(entry.evaluator, Accuracy)
    fixed = dataclasses.replace(entry.evaluator, batch=2)

    def strict(tokens, mask):
        assert tokens.shape[0] == mask.shape[0] == 2
        return (entry.model(tokens, mask),)

    assert fixed(strict) == pytest.approx(entry.evaluator(entry.model), abs=2e-3)


def test_calibration_is_training_data_in_the_form_of_the_inputs():
    entry = load("zoo:text-encoder")
    assert isinstance(entry.calibration, Calibration)
    batches = list(entry.calibration)
    assert len(batches) == len(entry.calibration) == 8
    assert [part.shape for part in batches[0]] == [(32, 48), (32, 48)]
    assert torch.equal(list(Calibration("names"))[3][0], batches[3][0])
    seen = {tuple(row) for batch in batches for row in batch[0].tolist()}
    test = {tuple(row) for row in load_data("names").test.inputs[0].tolist()}
    assert not seen & test
