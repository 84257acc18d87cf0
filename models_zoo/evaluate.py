"""How good a callable is on a held-out set, and calibration batches; the data is read on first use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.models_zoo import data


@dataclass(frozen=True)
class Accuracy:
    """Share of the held-out examples whose largest logit is the label, between 0 and 1.

    ``batch`` examples are given at a time; use ``dataclasses.replace(evaluator, batch=2)`` for a callable whose batch
    size is fixed at 2.
    """

    data: str
    batch: int = 100

    def __call__(self, model: Callable[..., Any]) -> float:
        """Runs ``model(*inputs)`` over the test half; the last batch is filled up with the first examples."""
        right = 0
        for logits, labels in _answers(model, self.data, self.batch):
            right += int((logits.argmax(-1) == labels).sum())
        return right / len(data.load(self.data).test)


@dataclass(frozen=True)
class Likelihood:
    """How likely a language model finds held-out text: the geometric mean of what it gives to each byte, 0 to 1."""

    data: str
    batch: int = 32

    def __call__(self, model: Callable[..., Any]) -> float:
        """One over the perplexity."""
        return 1 / self.perplexity(model)

    def perplexity(self, model: Callable[..., Any]) -> float:
        """Among how many bytes, all equally likely, the model chooses on average; lower is better."""
        lost, count = 0.0, 0
        for logits, labels in _answers(model, self.data, self.batch):
            lost += float(F.cross_entropy(logits.double().flatten(0, -2), labels.flatten(), reduction="sum"))
            count += labels.numel()
        return math.exp(lost / count)


def evaluator(name: str) -> Accuracy | Likelihood:
    """What a model that is trained on this data set is judged by."""
    return Likelihood(name) if name == "prose" else Accuracy(name)


@dataclass(frozen=True)
class Calibration:
    """Unlabelled training examples, ``count`` batches of ``batch``, each a tuple of inputs; can be iterated again."""

    data: str
    batch: int = 32
    count: int = 8

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        split = data.load(self.data).train
        for start in range(0, self.count * self.batch, self.batch):
            yield tuple(part[start : start + self.batch] for part in split.inputs)


def _answers(model: Callable[..., Any], name: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and labels of the test half; the last inputs are filled up to ``size``, their logits are not."""
    split = data.load(name).test
    for start in range(0, len(split), size):
        rows = torch.arange(start, start + size) % len(split)
        fresh = min(size, len(split) - start)
        with torch.no_grad():
            made = _logits(model(*(part[rows] for part in split.inputs)))
        yield made[:fresh], split.labels[rows[:fresh]]


def _logits(output: Any) -> Tensor:
    value = output[0] if isinstance(output, (tuple, list)) else output
    return torch.as_tensor(value).cpu()
