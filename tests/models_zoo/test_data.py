import hashlib

import pytest
import torch

from tersor.errors import UsageError
from tersor.models_zoo import data


def test_digits_are_split_once_and_for_all():
    pytest.importorskip("sklearn", reason="the package holds the data")
    digits = data.load("digits")
    assert (len(digits.train), len(digits.test)) == (1297, 500)
    assert digits.train.inputs[0].shape == (1297, 1, 8, 8)
    assert digits.test.labels[:8].tolist() == [0, 9, 6, 9, 8, 4, 5, 8]
    both = torch.cat([digits.train.inputs[0], digits.test.inputs[0]]).flatten(1)
    assert both.min() >= 0 and both.max() == 1
    assert len(both.unique(dim=0)) == 1797


def test_names_hold_every_category_about_equally():
    names = data.load("names")
    counts = torch.bincount(torch.cat([names.train.labels, names.test.labels]))
    assert len(counts) == len(data.CATEGORIES)
    assert counts.min() >= 200 and counts.max() == data.NAMES_PER_CATEGORY
    assert abs(len(names.test) / len(names.train) - 0.25) < 0.01


def test_names_are_the_same_in_every_python():
    test = data.load("names").test
    digest = hashlib.sha256(test.inputs[0].numpy().tobytes() + test.labels.numpy().tobytes()).hexdigest()
    assert digest == "8e2f3766fa8abb9de6925cc6980aa85d3962d8670c2ee06f8a9f779b766507ed"


def test_mask_covers_the_bytes():
    tokens, mask = data.encode_names(["DIGIT ONE", "A" * 100])
    assert tokens.shape == mask.shape == (2, data.NAME_BYTES)
    assert mask.sum(1).tolist() == [9, data.NAME_BYTES]
    assert bytes(tokens[0, :9].tolist()) == b"DIGIT ONE"


def test_unknown_data_set():
    with pytest.raises(UsageError, match="choose one of digits, mnist, names"):
        data.load("cifar")
