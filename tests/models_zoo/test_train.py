import dataclasses

import pytest
import torch

from tersor.errors import UsageError
from tersor.models_zoo import own, train


@pytest.fixture
def two_epochs(monkeypatch):
    quick = {name: dataclasses.replace(recipe, epochs=2) for name, recipe in train.RECIPES.items()}
    monkeypatch.setattr(train, "RECIPES", quick)


def test_every_recipe_has_data_and_weights():
    assert {name for name, data in own.DATA.items() if data} == set(train.RECIPES)


def test_same_seed_gives_the_same_weights(two_epochs):
    pytest.importorskip("sklearn", reason="the package holds the data")
    with torch.random.fork_rng(devices=[]):
        first, accuracy = train.train("digits-cnn", progress=False)
        again, _ = train.train("zoo:digits-cnn", progress=False)
    assert accuracy > 0.3
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_weights_come_back_as_stored(tmp_path):
    from tersor.models_zoo.digits_cnn import build

    stored, read = build(), build()
    train.save(stored, tmp_path / "new" / "digits_cnn.safetensors")
    own.load_weights(read, tmp_path / "new" / "digits_cnn.safetensors")
    assert all(torch.equal(value, read.state_dict()[key]) for key, value in stored.state_dict().items())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["digits_cnn.safetensors"]


def test_unknown_recipe():
    with pytest.raises(UsageError, match="no training recipe for 'swin'; choose one of digits_cnn"):
        train.train("swin")
