import dataclasses
import importlib.util
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from tersor.errors import UsageError
from tersor.models_zoo import load, names


def test_names_are_unique_and_load_by_prefix():
    known = names()
    assert len(known) == len(set(known))
    assert {name.partition(":")[0] for name in known} == {"zoo", "hf"}
    assert names("zoo") == [name for name in known if name.startswith("zoo:")]


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("zoo:digits-vitt", "zoo:digits-vit"),
        ("zoo:digits_vit", "zoo:digits-vit"),
        ("hf:brt", "hf:bert"),
        ("decodr", "zoo:decoder"),
        ("zoo:qqqq", "names()"),
        ("keras:resnet50", "torchvision:NAME"),
        ("", "zoo:NAME"),
    ],
)
def test_unknown_name_suggests_the_nearest(wrong, hint):
    with pytest.raises(UsageError, match="unknown model") as caught:
        load(wrong)
    assert hint in str(caught.value)
    assert repr(wrong) in str(caught.value)


def test_unknown_source():
    with pytest.raises(UsageError, match="unknown model source 'keras'"):
        names("keras")


@pytest.mark.parametrize("name", ["timm:resnet18", "hf:bert"])
def test_missing_package_is_named(name, monkeypatch):
    find = importlib.util.find_spec
    gone = ("timm", "transformers")
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module in gone else find(module))
    with pytest.raises(UsageError, match=r"pip install (timm|transformers)"):
        load(name)


def test_entry_is_frozen_and_calls_any_callable():
    entry: Any = load("zoo:digits-cnn")
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.name = "other"
    assert entry.call(nn.Identity()) is entry.inputs[0]


def test_loading_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    load("zoo:swin")
    assert torch.equal(before, torch.get_rng_state())


def test_the_package_imports_nothing_heavy():
    program = (
        "import sys, tersor.models_zoo; early = 'torch' in sys.modules;"
        "tersor.models_zoo.load('zoo:digits-vit');"
        "print(early, [name for name in ('sklearn', 'timm', 'transformers', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False []"
