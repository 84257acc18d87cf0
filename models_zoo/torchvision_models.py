"""``torchvision:`` names: any of torchvision's architectures at random weights, with inputs of the right kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tersor.models_zoo import torchvision_ops
from tersor.models_zoo.package import optional
from tersor.models_zoo.random_weights import enliven

DETECTION = ("rcnn", "fcos", "retinanet", "ssd")
VIDEO = ("mc3_", "r2plus1d", "r3d", "s3d", "mvit_", "swin3d")
SIZES = {"inception_v3": 299, "quantized_inception_v3": 299}


def names() -> list[str]:
    """Every architecture that torchvision lists."""
    return list(_torchvision().models.list_models())


def fields(name: str, seed: int, **options: Any) -> dict[str, Any]:
    """The fields of the catalog's entry; ``options`` are keyword arguments of ``torchvision.models.get_model``."""
    models = _torchvision().models
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = models.get_model(name, **_no_download(name), **options).eval()
    generator = torch.Generator().manual_seed(seed)
    inputs = _inputs(name, generator)
    enliven(model, lambda: model(*inputs), generator)
    return {
        "model": model,
        "inputs": inputs,
        "dynamic": _dynamic(name, inputs),
        "description": f"torchvision's {name} at random weights",
    }


def _no_download(name: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {"weights": None}
    if any(part in name for part in (*DETECTION, "deeplab", "fcn_", "lraspp")):
        arguments["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        arguments["init_weights"] = False
    return arguments


def _inputs(name: str, generator: torch.Generator) -> tuple[Any, ...]:
    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    if any(part in name for part in DETECTION):
        return ([random(3, 320, 320), random(3, 320, 320)],)
    if name.startswith("raft"):
        return random(2, 3, 128, 128), random(2, 3, 128, 128)
    if name.startswith(VIDEO):
        side = 224 if name.startswith(("mvit", "s3d")) else 112
        return (random(2, 3, 16, side, side),)
    size = SIZES.get(name, 224)
    return (random(2, 3, size, size),)


def _dynamic(name: str, inputs: tuple[Any, ...]) -> Any:
    """A dynamic batch, except for lists of images, and for models that compute their shapes from the batch size."""
    if not isinstance(inputs[0], Tensor) or name.startswith(("raft", "quantized")):
        return None
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in inputs)


def _torchvision() -> Any:
    torchvision_ops.ensure()
    return optional("torchvision", "a torchvision: name")
