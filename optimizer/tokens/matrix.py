"""Token reductions as matrices: into which new token each old one goes, and what becomes of features and sizes.

Every method of this folder answers with one of two tensors over the old tokens:

- ``parent`` [B, T] int64: the old token that each one is merged into, itself where it stays;
- ``kept`` [B, K] int64: the old tokens that stay, in order, the others are dropped.

Both mean a matrix [B, K, T] that new tokens are made with. Tokens in front (class, distillation, registers) stay where
they are; the others keep their order, or those at even places come before those at odd places, as in ToMe. An average
is a sum divided by a sum, which every exporter writes rightly.
"""

from __future__ import annotations

import torch
from torch import Tensor

DENSE = 512
"""Up to so many new tokens a product is faster than ONNX Runtime's loop over what is scattered."""


def places(parent: Tensor) -> Tensor:
    """The new position [B, T] of every old token, for parents that are their own.

    >>> places(torch.tensor([[0, 3, 2, 3]])).tolist()
    [[0, 2, 1, 2]]
    """
    stays = parent == torch.arange(parent.shape[1], device=parent.device)
    return (stays.long().cumsum(1) - 1).gather(1, parent)


def survivors(parent: Tensor, count: int) -> Tensor:
    """The ``count`` old positions [B, K] that are their own parents, in order.

    >>> survivors(torch.tensor([[0, 3, 2, 3]]), 3).tolist()
    [[0, 2, 3]]
    """
    return _true(parent == torch.arange(parent.shape[1], device=parent.device), count)


def _true(table: Tensor, count: int) -> Tensor:
    """The ``count`` positions [B, K] that are true in each row, in order."""
    length = table.shape[1]
    place = torch.arange(length, device=table.device)
    return length - torch.where(table, length - place, torch.zeros_like(place)).topk(count, dim=1).values


def places_by_sets(parent: Tensor, count: int) -> Tensor:
    """As `places` for parents at odd places: ``count`` new tokens, the even ones that stay, then all odd ones.

    ToMe numbers its tokens so (arXiv:2210.09461, appendix D), and the next layer's pairs depend on it.

    >>> places_by_sets(torch.tensor([[0, 1, 1, 3, 4, 5]]), 5).tolist()
    [[0, 2, 2, 3, 1, 4]]
    """
    tokens = parent.shape[1]
    own = torch.arange(tokens, device=parent.device)
    even = own % 2 == 0
    first = ((parent == own) & even).long().cumsum(1) - 1
    return torch.where(even, first, own // 2 + (count - tokens // 2)).gather(1, parent)


def survivors_by_sets(parent: Tensor, count: int) -> Tensor:
    """As `survivors`, in the order of `places_by_sets`.

    >>> survivors_by_sets(torch.tensor([[0, 1, 1, 3, 4, 5]]), 5).tolist()
    [[0, 4, 1, 3, 5]]
    """
    batch, half = parent.shape[0], parent.shape[1] // 2
    even = parent[:, ::2]
    stay = _true(even == torch.arange(even.shape[1], device=parent.device) * 2, count - half) * 2
    odd = torch.arange(half, device=parent.device) * 2 + 1
    return torch.cat([stay, odd.expand(batch, half)], dim=1)


def rows(index: Tensor, count: int) -> Tensor:
    """Indices [B, N] into each sample's ``count`` tokens as indices [B * N] into those of all samples."""
    start = torch.arange(index.shape[0], device=index.device) * count
    return (index + start[:, None]).reshape(-1)


def gathered(x: Tensor, index: Tensor) -> Tensor:
    """Tokens [B, N, ...] of ``x`` [B, T, ...] at ``index`` [B, N]."""
    flat = x.reshape([x.shape[0] * x.shape[1], *x.shape[2:]])
    return flat.index_select(0, rows(index, x.shape[1])).reshape([*index.shape, *x.shape[2:]])


def ends_of(x: Tensor, dim: int, first: int, last: int) -> Tensor:
    """The ``first`` and the ``last`` positions of a dimension.

    >>> ends_of(torch.arange(6), 0, 1, 2).tolist()
    [0, 4, 5]
    """
    length = x.shape[dim]
    parts = [x.narrow(dim, 0, first)] if first else []
    parts += [x.narrow(dim, length - last, last)] if last else []
    return torch.cat(parts, dim=dim) if len(parts) > 1 else parts[0]


def summed(x: Tensor, place: Tensor, stay: Tensor) -> Tensor:
    """For each new token the sum [B, K, C] of the old ones [B, T, C] that go there.

    The old ones at ``stay`` [B, K] are gathered, and what goes elsewhere is added as a product with a matrix of ones
    and zeros, for many tokens scattered: runtimes add at points that may coincide one element after the other.

    >>> summed(torch.tensor([[[1.0], [2.0], [4.0]]]), torch.tensor([[0, 0, 1]]), torch.tensor([[0, 2]])).tolist()
    [[[3.0], [4.0]]]
    """
    batch, tokens, width = x.shape
    count = stay.shape[1]
    total = gathered(x, stay)
    if tokens == count:
        return total
    goes = torch.ones_like(place).scatter(1, stay, 0) == 1
    moved = _true(goes, tokens - count)
    target, rest = place.gather(1, moved), gathered(x, moved)
    if isinstance(count, int) and count <= DENSE:
        into = target[:, None, :] == torch.arange(count, device=x.device)[None, :, None]
        return total + into.to(x.dtype) @ rest
    flat = total.reshape([batch * count, width])
    flat = flat.index_put([rows(target, count)], rest.reshape([-1, width]), accumulate=True)
    return flat.reshape([batch, count, width])


def merged(x: Tensor, place: Tensor, size: Tensor, stay: Tensor) -> tuple[Tensor, Tensor]:
    """New tokens [B, K, C] as averages of old ones weighted by ``size`` [B, T, 1], and their sizes [B, K, 1].

    A token of size 0 (padding) leaves no trace in what it is merged with.

    >>> x, size = torch.tensor([[[1.0], [4.0]]]), torch.tensor([[[2.0], [1.0]]])
    >>> merged(x, torch.zeros(1, 2, dtype=torch.long), size, torch.zeros(1, 1, dtype=torch.long))
    (tensor([[[2.]]]), tensor([[[3.]]]))
    """
    total = summed(size, place, stay)
    return summed(x * size, place, stay) / total.clamp(min=torch.finfo(x.dtype).tiny), total


def averaged(x: Tensor, place: Tensor, weight: Tensor, size: Tensor, stay: Tensor) -> tuple[Tensor, Tensor]:
    """As `merged`, with other weights [B, T, 1] for features than the sizes, which are only counted."""
    return merged(x, place, weight, stay)[0], summed(size, place, stay)


def joined_rest(x: Tensor, kept: Tensor, weight: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens at ``kept`` [B, K] and one more, the average of all others weighted by ``weight`` [B, T, 1].

    >>> x = torch.tensor([[[1.0], [2.0], [4.0]]])
    >>> joined_rest(x, torch.tensor([[1]]), torch.ones(1, 3, 1), torch.ones(1, 3, 1))
    (tensor([[[2.0000],
             [2.5000]]]), tensor([[[1.],
             [2.]]]))
    """
    rest = torch.ones_like(weight).scatter(1, kept[:, :, None], 0.0)
    share = weight * rest
    smallest = torch.finfo(x.dtype).tiny
    last = (x * share).sum(1, keepdim=True) / share.sum(1, keepdim=True).clamp(min=smallest)
    sizes = torch.cat([gathered(size, kept), (size * rest).sum(1, keepdim=True)], dim=1)
    return torch.cat([gathered(x, kept), last], dim=1), sizes


def restored(x: Tensor, place: Tensor) -> Tensor:
    """Old tokens [B, T, ...], each a copy of the new one [B, K, ...] that it went into (ToMeSD, arXiv:2303.17604)."""
    return gathered(x, place)


def nearest(metric: Tensor, kept: Tensor) -> Tensor:
    """For each old token the new position [B, T] of the most similar one that was kept (AT-EDM, arXiv:2405.05252).

    Tokens that were kept are most similar to themselves.

    Args:
        metric: [B, T, D].
        kept: [B, K].
    """
    unit = normalized(metric)
    return (unit @ gathered(unit, kept).transpose(1, 2)).max(-1).indices


def normalized(metric: Tensor) -> Tensor:
    """Rows of length 1; zeros stay."""
    return metric / metric.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def matrix(place: Tensor, weight: Tensor, count: int) -> Tensor:
    """The reduction as a matrix [B, K, T] whose rows sum to 1, from places [B, T] and weights [B, T].

    >>> matrix(torch.tensor([[0, 0, 1]]), torch.tensor([[1.0, 3.0, 2.0]]), 2).tolist()
    [[[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]]
    """
    shared = (place[:, None, :] == torch.arange(count, device=place.device)[None, :, None]) * weight[:, None, :]
    return shared / shared.sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
