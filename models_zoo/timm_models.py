"""``timm:`` names: any of timm's architectures at random weights."""

from __future__ import annotations

from typing import Any

import torch

from tersor.models_zoo import torchvision_ops
from tersor.models_zoo.package import optional
from tersor.models_zoo.random_weights import enliven


def names() -> list[str]:
    """Every architecture that timm lists."""
    return list(_timm().list_models())


def fields(name: str, seed: int, **options: Any) -> dict[str, Any]:
    """The fields of the catalog's entry; ``options`` are keyword arguments of ``timm.create_model``.

    With ``img_size`` among them the example images have that height and width; a model whose constructor takes no such
    argument is given them all the same.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _created(name, options)
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = model.pretrained_cfg["input_size"]
    sides = (options["img_size"],) * 2 if "img_size" in options else (height, width)
    images = torch.randn(2, channels, *sides, generator=generator)
    enliven(model, lambda: model(images), generator)
    return {
        "model": model,
        "inputs": (images,),
        "dynamic": ({0: torch.export.Dim("batch")},),
        "description": f"timm's {name} at random weights",
    }


def _created(name: str, options: dict[str, Any]) -> Any:
    create = _timm().create_model
    try:
        return create(name, pretrained=False, **options).eval()
    except TypeError as error:
        if "img_size" not in options or "img_size" not in str(error):
            raise
        rest = {key: value for key, value in options.items() if key != "img_size"}
        return create(name, pretrained=False, **rest).eval()


def _timm() -> Any:
    torchvision_ops.ensure()
    return optional("timm", "a timm: name")
