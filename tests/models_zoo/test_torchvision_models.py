import importlib.util

import pytest
import torch

from tersor.models_zoo import load, names
from tests.models_zoo.exporting import assert_follows

pytestmark = [
    # Not importorskip: under a CPU build of torch, torchvision imports only after its operators are declared.
    pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


def test_lists_architectures():
    assert {"torchvision:resnet18", "torchvision:fasterrcnn_resnet50_fpn"} <= set(names("torchvision"))


def test_loads_runs_and_exports():
    assert_follows(load("torchvision:squeezenet1_1"), batch=3)


def test_detection_takes_a_list_of_images():
    entry = load("torchvision:ssdlite320_mobilenet_v3_large")
    assert entry.dynamic is None
    with torch.no_grad():
        found = entry.call()
    assert [set(one) for one in found] == [{"boxes", "scores", "labels"}] * 2
