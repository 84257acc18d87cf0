"""``hf:`` names: small models of transformers' architectures, built from their configuration at random weights."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from tersor.models_zoo import torchvision_ops
from tersor.models_zoo.hf_table import TABLE, Architecture
from tersor.models_zoo.package import optional
from tersor.models_zoo.random_weights import enliven

Inputs = dict[str, Tensor]


def names() -> list[str]:
    """The names in the table of architectures."""
    return list(TABLE)


def fields(name: str, seed: int, attention: str = "sdpa") -> dict[str, Any]:
    """The fields of the catalog's entry; ``attention`` is transformers' ``attn_implementation``.

    Where an architecture lacks ``sdpa``, it falls back to ``eager``.
    """
    torchvision_ops.ensure()  # transformers imports torchvision where it is installed
    transformers = optional("transformers", "an hf: name")
    architecture = TABLE[name]
    model_class = getattr(transformers, architecture.model)
    if attention == "sdpa" and not getattr(model_class, "_supports_sdpa", False):
        attention = "eager"
    config = _config(transformers, architecture, attention)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    if architecture.part:
        model = getattr(model, architecture.part)
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    inputs, dynamic = _inputs(architecture, generator)
    enliven(model, lambda: model(**inputs), generator)
    return {
        "model": model,
        "inputs": inputs,
        "dynamic": dynamic if architecture.dynamic else None,
        "description": f"transformers' {architecture.model} at random weights, made small",
    }


def _config(transformers: Any, architecture: Architecture, attention: str) -> Any:
    config_class = getattr(transformers, architecture.config)
    known = inspect.signature(config_class.__init__).parameters
    # The default of 0.02 is made for wide layers; in small ones it would leave attention all but uniform.
    common = {"use_cache": False, "initializer_range": 0.1}
    settings = {key: value for key, value in common.items() if key in known} | architecture.settings
    return config_class(**settings, attn_implementation=attention)


def _inputs(architecture: Architecture, generator: torch.Generator) -> tuple[Inputs, dict[str, Any]]:
    """Example inputs of the architecture's kind, and their dynamic dimensions."""
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=64)
    shape = (2, *architecture.shape)
    if architecture.kind == "tokens":
        tokens = torch.randint(3, 99, shape, generator=generator)
        mask = torch.ones_like(tokens)
        if architecture.padded:
            mask[1, shape[1] - 5 :] = 0
        axes = {0: batch, 1: length} if "length" in architecture.dynamic else {0: batch}
        return {"input_ids": tokens, "attention_mask": mask}, {"input_ids": axes, "attention_mask": axes}
    values = torch.randn(shape, generator=generator)
    return {architecture.kind: values}, {architecture.kind: {0: batch}}
