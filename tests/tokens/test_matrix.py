"""Reductions against the matrix they stand for."""

from __future__ import annotations

import pytest
import torch

from tersor.tokens.matrix import (
    averaged,
    gathered,
    matrix,
    merged,
    nearest,
    places,
    restored,
    summed,
    survivors,
)


def random_parents(batch: int, tokens: int, count: int, seed: int) -> torch.Tensor:
    """Tokens of which ``count`` go into some of the others."""
    draws = torch.Generator().manual_seed(seed)
    parent = torch.arange(tokens).repeat(batch, 1)
    for row in parent:
        order = torch.randperm(tokens, generator=draws)
        stay = order[count:]
        row[order[:count]] = stay[torch.randint(0, tokens - count, (count,), generator=draws)]
    return parent


@pytest.mark.parametrize(("tokens", "count"), [(7, 3), (2, 1), (1, 0), (16, 0), (13, 12)])
def test_a_merge_is_a_product_with_its_matrix(tokens: int, count: int) -> None:
    parent = random_parents(3, tokens, count, seed=tokens)
    size = torch.rand(3, tokens, 1, dtype=torch.float64) + 0.5
    x = torch.randn(3, tokens, 5, dtype=torch.float64)
    place, left = places(parent), tokens - count
    made, sizes = merged(x, place, size, survivors(parent, left))
    table = matrix(place, size[:, :, 0], left)
    torch.testing.assert_close(made, table @ x)
    torch.testing.assert_close(table.sum(-1), torch.ones(3, left, dtype=torch.float64))
    torch.testing.assert_close(sizes.sum(1), size.sum(1))


def test_tokens_that_stay_keep_their_order_and_their_features() -> None:
    parent = random_parents(2, 9, 4, seed=1)
    kept = survivors(parent, 5)
    assert torch.equal(kept, kept.sort(dim=1).values)
    assert torch.equal(places(parent).gather(1, kept), torch.arange(5).expand(2, 5))
    x = torch.randn(2, 9, 3)
    made, _ = merged(x, places(parent), torch.ones(2, 9, 1), kept)
    alone = torch.stack([(parent[row][:, None] == kept[row]).sum(0) == 1 for row in range(2)])
    torch.testing.assert_close(made[alone], gathered(x, kept)[alone])


def test_padding_leaves_no_trace() -> None:
    x = torch.tensor([[[1.0], [100.0], [3.0]]])
    made, size = merged(x, torch.tensor([[0, 0, 1]]), torch.tensor([[[1.0], [0.0], [1.0]]]), torch.tensor([[0, 2]]))
    assert made.flatten().tolist() == [1.0, 3.0]
    assert size.flatten().tolist() == [1.0, 1.0]
    nothing, size = merged(x, torch.tensor([[0, 1, 1]]), torch.tensor([[[1.0], [0.0], [0.0]]]), torch.tensor([[0, 1]]))
    assert bool(nothing.isfinite().all())
    assert size.flatten().tolist() == [1.0, 0.0]


def test_weights_beside_sizes() -> None:
    x, place = torch.tensor([[[1.0], [5.0]]]), torch.zeros(1, 2, dtype=torch.long)
    made, size = averaged(x, place, torch.tensor([[[3.0], [1.0]]]), torch.ones(1, 2, 1), place[:, :1])
    assert made.item() == 2.0
    assert size.item() == 2.0


def test_what_is_put_back_is_what_the_token_went_into() -> None:
    place = torch.tensor([[0, 1, 0, 2]])
    x = torch.tensor([[[1.0], [2.0], [3.0]]])
    assert restored(x, place).flatten().tolist() == [1.0, 2.0, 1.0, 3.0]
    assert summed(restored(x, place), place, torch.tensor([[0, 1, 3]])).flatten().tolist() == [2.0, 2.0, 3.0]


def test_dropped_tokens_are_nearest_to_what_is_like_them() -> None:
    metric = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]])
    assert nearest(metric, torch.tensor([[0, 3]])).tolist() == [[0, 0, 1, 1]]
