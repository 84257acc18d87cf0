import importlib.util

import pytest
import torch

from tersor.models_zoo import load, names
from tests.models_zoo.exporting import assert_follows

pytestmark = [
    # Not importorskip: timm imports torchvision, whose operators may have to be declared first.
    pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


def test_lists_architectures():
    known = names("timm")
    assert len(known) > 1000
    assert "timm:vit_tiny_patch16_224" in known


def test_loads_runs_and_exports():
    entry = load("timm:test_efficientnet")
    assert isinstance(entry.inputs, tuple)
    assert entry.inputs[0].shape[:2] == (2, 3)
    assert_follows(entry)


def test_options_reach_the_constructor():
    entry = load("timm:test_vit", num_classes=7)
    with torch.no_grad():
        assert entry.call().shape == (2, 7)


def test_images_have_the_size_that_the_model_was_made_for():
    entry = load("timm:test_vit", img_size=96)
    assert isinstance(entry.inputs, tuple)
    assert entry.inputs[0].shape == (2, 3, 96, 96)
    with torch.no_grad():
        assert entry.call().shape[0] == 2


def test_an_image_size_reaches_models_that_take_no_such_argument():
    entry = load("timm:test_resnet", img_size=96)
    assert isinstance(entry.inputs, tuple) and entry.inputs[0].shape == (2, 3, 96, 96)
    with pytest.raises(TypeError, match="colour"):
        load("timm:test_resnet", colour="blue")
