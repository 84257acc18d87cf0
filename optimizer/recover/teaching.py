"""Batches for distillation: drawn anew each epoch, optionally mixed, which needs no labels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tersor.interface import Flat
from tersor.recover.samples import Samples, joined


def drawn(samples: Samples, batch_size: int, mixing: float, generator: torch.Generator) -> Iterator[Flat]:
    """Endless batches to fit on, in an order that the generator fixes.

    Args:
        batch_size: where batches may be cut anew; otherwise they are used as they came.
        mixing: share of the examples to which another one is added with a random weight of up to a half (as mixup,
            Zhang et al., arXiv:1710.09412, but the original program labels the mixture); only for floating inputs
            with at least three axes.
    """
    while True:
        for flat in _epoch(samples, batch_size, generator):
            yield mixed(flat, mixing, generator)


def _epoch(samples: Samples, batch_size: int, generator: torch.Generator) -> Iterator[Flat]:
    if samples.dimension is None:
        for place in torch.randperm(len(samples.fit), generator=generator).tolist():
            yield samples.fit[place]
        return
    pool = joined(samples.fit)
    size = min(max(batch_size, samples.dimension.minimum), samples.dimension.maximum or batch_size, len(pool[0]))
    order = torch.randperm(len(pool[0]), generator=generator).to(pool[0].device)
    for start in range(0, len(order) - size + 1, size):
        yield tuple(value[order[start : start + size]] for value in pool)


def mixed(flat: Flat, share: float, generator: torch.Generator) -> Flat:
    """A batch in which a share of the examples are mixtures of two.

    >>> images = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    >>> mixed((images,), 0.0, torch.Generator())[0] is images
    True
    """
    count = len(flat[0]) if flat[0].dim() else 0
    fits = all(value.is_floating_point() and value.dim() >= 3 and len(value) == count for value in flat)
    if share <= 0 or not fits or count < 2:
        return flat
    chosen = torch.rand(count, generator=generator) < share
    weight = torch.where(chosen, 0.5 * torch.rand(count, generator=generator), 0.0)
    other = torch.randperm(count, generator=generator)
    return tuple(_mixture(value, weight, other) for value in flat)


def _mixture(value: Tensor, weight: Tensor, other: Tensor) -> Tensor:
    weight = weight.to(value).reshape(-1, *[1] * (value.dim() - 1))
    return value + weight * (value[other.to(value.device)] - value)
