import importlib.util

import pytest
import torch

from tersor.models_zoo import load, names
from tests.models_zoo.exporting import assert_follows, tensors

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed"),
    # torch's own copying of its tree specs warns.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


@pytest.mark.parametrize("name", ["hf:bert", "hf:llama"])
def test_runs_and_exports(name):
    assert_follows(load(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", names("hf"))
def test_every_configuration_runs_and_exports(name):
    entry = load(name)
    assert sum(parameter.numel() for parameter in entry.model.parameters()) < 2_000_000
    with torch.no_grad():
        first = tensors(entry.call())[0]
    assert first.isfinite().all()
    assert first.float().std() > 0.01
    assert_follows(entry)


def test_attention_implementation_is_chosen():
    inputs = load("hf:llama").inputs
    assert isinstance(inputs, dict)
    found = {}
    for attention in ("sdpa", "eager"):
        model = load("hf:llama", attention=attention).model
        with torch.no_grad():
            graph = torch.export.export(model, (), inputs, strict=False).graph
        found[attention] = sum("scaled_dot_product" in str(node.target) for node in graph.nodes)
    assert found == {"sdpa": 2, "eager": 0}


def test_same_seed_gives_the_same_model():
    with torch.no_grad():
        first, again, other = (tensors(load("hf:gpt2", seed=seed).call())[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_there_are_at_least_thirty():
    assert len(names("hf")) >= 30
