"""The project's own models, ``zoo:`` names: which there are, and their stored weights."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tersor.models_zoo.evaluate import Calibration, evaluator
from tersor.models_zoo.random_weights import enliven

# The data set of a trained model, "" for one at random weights.
DATA = {
    "digits_cnn": "digits",
    "digits_mobile": "digits",
    "digits_vit": "digits",
    "mnist_cnn": "mnist",
    "mnist_vit": "mnist",
    "text_encoder": "names",
    "tiny_lm": "prose",
    "convnext": "",
    "swin": "",
    "decoder": "",
    "llava": "",
    "unet": "",
    "ssm": "",
    "moe": "",
    "dit": "",
}


def names() -> list[str]:
    """The names without ``zoo:``, with dashes."""
    return [name.replace("_", "-") for name in DATA]


def fields(name: str, seed: int) -> dict[str, Any]:
    """The fields of the catalog's entry for one of ``names()``."""
    stem = name.replace("-", "_")
    room = importlib.import_module(f"tersor.models_zoo.{stem}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = room.build()
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    inputs = room.inputs(generator)
    trained_on = DATA[stem]
    if trained_on:
        load_weights(model, weights_path(stem))
    else:
        enliven(model, lambda: model(*inputs), generator)
    return {
        "model": model,
        "inputs": inputs,
        "dynamic": room.dynamic(),
        "evaluator": evaluator(trained_on) if trained_on else None,
        "calibration": Calibration(trained_on) if trained_on else (),
        "description": " ".join((room.__doc__ or "").split("\n\n")[0].split()),
    }


def weights_path(name: str) -> Path:
    """Where the trained weights of a model are stored."""
    return Path(__file__).parent / "weights" / f"{name.replace('-', '_')}.safetensors"


def load_weights(model: nn.Module, path: Path) -> None:
    """Fills the model from a safetensors file, in the dtype that the model has."""
    from safetensors.torch import load_file

    model.load_state_dict(load_file(path))
