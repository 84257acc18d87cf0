"""Accuracy of a callable on a held-out set, and calibration batches; the data is read on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
        split = data.load(self.data).test
        right = 0
        with torch.no_grad():
            for start in range(0, len(split), self.batch):
                rows = torch.arange(start, start + self.batch) % len(split)
                fresh = min(self.batch, len(split) - start)
                guess = _logits(model(*(part[rows] for part in split.inputs))).argmax(-1)
                right += int((guess[:fresh] == split.labels[rows][:fresh]).sum())
        return right / len(split)


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


def _logits(output: Any) -> Tensor:
    value = output[0] if isinstance(output, (tuple, list)) else output
    return torch.as_tensor(value).cpu()
