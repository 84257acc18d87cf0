"""Layouts: patterns along channels at each point, moments to match, and the slices that an axis orders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.axes.select import indices, owners
from tersor.axes.terms import Axis, Cat, Product
from tersor.errors import UsageError
from tersor.sparse.layout import as_matrix, as_moments, as_weight, slices
from tersor.sparse.masks import magnitude
from tersor.sparse.pattern import Pattern
from tersor.sparse.permute import kept

TWO_FOUR = Pattern(2, 4)


@pytest.mark.parametrize("kernel", [(), (3,), (3, 2), (2, 1, 2)])
def test_weights_come_back(kernel: tuple[int, ...]) -> None:
    weight = torch.randn(6, 8, *kernel)
    matrix = as_matrix(weight)
    assert matrix.shape == (6, 8 * int(np.prod(kernel)))
    assert torch.equal(as_weight(matrix, weight.shape), weight)


def test_convolutions_are_sparse_as_tensorrt_wants_it() -> None:
    weight = torch.randn(6, 8, 3, 3)
    pruned = as_weight(as_matrix(weight) * magnitude(as_matrix(weight), TWO_FOUR), weight.shape)
    for channels in pruned.split(4, dim=1):
        assert bool(((channels != 0).sum(1) == 2).all())


def test_moments_of_patches_follow() -> None:
    weight, x = torch.randn(5, 4, 3, 3, dtype=torch.float64), torch.randn(2, 4, 7, 7, dtype=torch.float64)
    patches = F.unfold(x, 3).movedim(1, 2).flatten(0, 1)
    matrix, gram = as_matrix(weight), as_moments(patches.mT @ patches, weight.shape)
    energy = F.conv2d(x, weight).square().sum((0, 2, 3))
    torch.testing.assert_close(((matrix @ gram) * matrix).sum(1), energy)
    assert torch.equal(as_moments(torch.eye(3), (5, 3)), torch.eye(3))
    with pytest.raises(UsageError, match="second moments"):
        as_moments(torch.eye(4), weight.shape)


def ordered(weight: Tensor, dim: int, term: Axis | Cat | Product, axis: Axis, order: Tensor) -> Tensor:
    return weight.index_select(dim, indices(term, {axis: order}))


@pytest.mark.parametrize("kind", ["plain", "heads", "rotary", "joined"])
def test_slices_keep_what_the_weight_keeps(kind: str) -> None:
    axis, other = Axis(8), Axis(4)
    terms: dict[str, Axis | Cat | Product] = {
        "plain": axis,
        "heads": Product((Axis(3), axis)),
        "rotary": Product((Axis(3), Axis(2), axis)),
        "joined": Cat((other, axis, axis)),
    }
    term = terms[kind]
    own = owners(term, axis)
    weight = torch.randn(5, len(own))
    found = slices(weight, 1, own, 8, TWO_FOUR)
    assert len(found) == int((own == 0).sum())
    order = torch.randperm(8)
    rest = kept(weight[:, own < 0], TWO_FOUR) if bool((own < 0).any()) else 0.0
    moved = kept(ordered(weight, 1, term, axis, order), TWO_FOUR)
    assert moved == pytest.approx(rest + sum(kept(part[:, order], TWO_FOUR) for part in found))


def test_channels_of_a_convolution_are_one_slice() -> None:
    weight = torch.randn(5, 8, 3, 3)
    (part,) = slices(weight, 1, torch.arange(8), 8, TWO_FOUR)
    assert kept(part, TWO_FOUR) == pytest.approx(kept(as_matrix(weight), TWO_FOUR))


def test_axes_that_move_no_single_columns_have_no_slices() -> None:
    axis = Axis(8)
    for term in (Product((axis, Axis(2))), Cat((Axis(2), axis, Axis(2)))):
        own = owners(term, axis)
        assert slices(torch.randn(3, len(own)), 1, own, 8, TWO_FOUR) == []
    assert slices(torch.randn(3, 6), 1, torch.arange(6), 6, TWO_FOUR) == []
