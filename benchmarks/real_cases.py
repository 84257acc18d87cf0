"""Real trained models with unlabelled data and a metric, shaped as the zoo's entries are; inputs from packages.

The metric is agreement with the original on inputs that calibration never saw, so the original itself has 1.0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.real import lite0, minilm
from tests.real.text import many_sentences


@dataclass(frozen=True)
class Case:
    """A model, example inputs, dynamic dimensions, unlabelled batches, and a share between 0 and 1 for a callable."""

    model: Any
    inputs: Any
    dynamic: Any
    calibration: list[Any]
    evaluator: Callable[[Any], float]
    heads: dict[Any, int] = field(default_factory=dict)
    """Projections by module, and their number of heads: what Torch-Pruning has to be told."""


def classifier(batches: int = 32) -> Case:
    """EfficientNet-Lite0: the same class as the original, on views of ten photographs; calibration sees ten others."""
    model = lite0.load()
    images, _ = lite0.photographs()
    held = views(images[1::2], 20, seed=1)
    with torch.no_grad():
        wanted = _classes(model, held)

    def agreement(made: Any) -> float:
        with torch.no_grad():
            return float((_classes(made, held) == wanted).float().mean())

    fitted = [(part,) for part in views(images[::2], 32, seed=0).split(10)][:batches]
    return Case(model, (images[:2],), ({0: torch.export.Dim("batch")},), fitted, agreement)


def views(images: Tensor, count: int, seed: int) -> Tensor:
    """``count`` random crops of each image, scaled back to its size, every other one mirrored."""
    draws = torch.Generator().manual_seed(seed)
    size, made = images.shape[-1], []
    for number in range(count):
        edge = int(torch.randint(size * 2 // 3, size + 1, (), generator=draws))
        top, left = (int(torch.randint(0, size - edge + 1, (), generator=draws)) for _ in range(2))
        crop = images[:, :, top : top + edge, left : left + edge]
        crop = functional.interpolate(crop, size, mode="bilinear", antialias=True)
        made.append(crop.flip(-1) if number % 2 else crop)
    return torch.cat(made)


def _classes(model: Any, images: Tensor) -> Tensor:
    made = [model(part) for part in images.split(20)]
    return torch.cat([(item[0] if isinstance(item, tuple | list) else item).argmax(1) for item in made])


def sentence_encoder(batches: int = 32) -> Case:
    """MiniLM: the same nearest neighbour as the original among 500 sentences; calibration sees 256 others."""
    model, encode = minilm.load()
    text = many_sentences()
    held, fitted = text[:500], text[500 : 500 + 8 * batches + 1]

    def neighbours(made: Any) -> Tensor:
        vectors = minilm.embeddings(lambda inputs: _first(made(**inputs)), encode, held)
        return (vectors @ vectors.T - 2 * torch.eye(len(vectors))).argmax(1)

    wanted = neighbours(model)

    def agreement(made: Any) -> float:
        return float((neighbours(made) == wanted).float().mean())

    encoded = [encode(part) for part in minilm.batches(fitted)][:batches]
    attention = [layer.attention.self for layer in model.encoder.layer]  # type: ignore[union-attr]
    heads = {part: layer.num_attention_heads for layer in attention for part in (layer.query, layer.key, layer.value)}
    return Case(model, encoded[0], minilm.dynamic(), encoded, agreement, heads)


def _first(output: Any) -> Tensor:
    found: Tensor = output["last_hidden_state"] if isinstance(output, dict) else output.last_hidden_state
    return found


CASES: dict[str, Callable[[], Case]] = {"real:lite0": classifier, "real:minilm": sentence_encoder}
