"""Bipartite soft matching against a plain transcription of the paper, and what must not merge."""

from __future__ import annotations

import pytest
import torch

from tersor.tokens.bipartite import bipartite
from tersor.tokens.matrix import matrix, places
from tests.tokens.tome_reference import matched, merge


def sorted_rows(table: torch.Tensor) -> torch.Tensor:
    """Rows of 0 and 1 in an order that does not depend on how new tokens are numbered."""
    return torch.stack([part[part.argmax(-1).argsort()] for part in table])


@pytest.mark.parametrize(("tokens", "count"), [(17, 5), (197, 98), (5, 2), (50, 1)])
def test_the_same_tokens_merge_as_in_the_paper(tokens: int, count: int) -> None:
    metric = torch.randn(4, tokens, 16, generator=torch.Generator().manual_seed(tokens))
    parent = bipartite(metric, count, first=1)
    ours = matrix(places(parent), torch.ones(4, tokens), tokens - count) > 0
    theirs = merge(torch.eye(tokens).expand(4, -1, -1), matched(metric, count))
    torch.testing.assert_close(sorted_rows(ours.float()), sorted_rows(theirs))


@pytest.mark.parametrize("first", [1, 2, 5])
def test_protected_tokens_neither_go_nor_take(first: int) -> None:
    metric = torch.ones(2, 20, 4)
    parent = bipartite(metric, 7, first)
    assert torch.equal(parent[:, :first], torch.arange(first).expand(2, first))
    assert bool((parent[:, first:] >= first).all())
    assert int((parent != torch.arange(20)).sum()) == 14


def test_padding_goes_first() -> None:
    metric = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(0))
    padding = torch.arange(12).expand(1, 12) >= 6
    parent = bipartite(metric, 3, 1, padding)
    gone = (parent != torch.arange(12)).nonzero()[:, 1]
    assert bool((gone >= 6).all())


def test_nothing_to_merge() -> None:
    assert bipartite(torch.randn(1, 3, 4), 0, 1).tolist() == [[0, 1, 2]]
