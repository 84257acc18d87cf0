"""Each method against its formula, written out token by token."""

from __future__ import annotations

import math

import pytest
import torch

from tersor.tokens.attention import of_first, of_last, page_rank, probabilities, received
from tersor.tokens.criteria import INFORMATION, SIZE, attraction, by_criteria
from tersor.tokens.energy import by_energy, energy
from tersor.tokens.grid import by_cell, corners
from tersor.tokens.matrix import joined_rest
from tersor.tokens.methods import MERGE, PRUNE
from tersor.tokens.prune import best, diverse, fused, protected
from tersor.tokens.rates import Rate
from tersor.tokens.step import Step


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a, b, dim=0))


def test_energy_is_the_papers_equation_4() -> None:
    metric, edge = random(1, 6, 4), 0.3
    for i in range(6):
        terms = [cosine(metric[0, i], metric[0, j]) for j in range(6)]
        wanted = sum(x if x >= edge else math.exp(x - edge) - 1 for x in terms) / 6
        assert float(energy(metric, edge)[0, i]) == pytest.approx(wanted, abs=1e-5)


def test_isolated_tokens_are_not_merged_by_energy() -> None:
    crowd = torch.tensor([1.0, 0.0, 0.0]) + 0.01 * random(8, 3)
    alone = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.2]])
    parent = by_energy(torch.cat([alone, crowd])[None], 4, edge=0.5)
    assert parent[0, :2].tolist() == [0, 1]
    assert int((parent != torch.arange(10)).sum()) == 4


def test_attraction_is_the_product_of_three_criteria() -> None:
    metric, attention = random(1, 4, 3), torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    size = torch.tensor([[1.0, 2.0, 3.0, 1.0]])
    made = attraction(metric, attention, size)[0]
    for i in range(4):
        for j in range(4):
            alike = (cosine(metric[0, i], metric[0, j]) + 1) / 2
            information = float(1 / (attention[0, i] * attention[0, j])) ** INFORMATION
            sizes = float(1 / (size[0, i] * size[0, j])) ** SIZE
            assert float(made[i, j]) == pytest.approx(alike * information * sizes, rel=1e-4)


def test_criteria_merge_in_both_directions() -> None:
    parent = by_criteria(random(2, 21, 8), torch.full((2, 21), 1 / 21), torch.ones(2, 21), 8, first=1)
    gone = parent != torch.arange(21)
    assert gone.sum(1).tolist() == [8, 8]
    assert torch.equal(parent.gather(1, parent), parent)
    assert bool(gone[:, ::2].any()) and bool(gone[:, 1::2].any()) and not bool(gone[:, 0].any())


def test_page_rank_walks_over_the_attention_graph() -> None:
    weights = random(1, 2, 5, 5).softmax(-1)
    signal = torch.full((2, 5), 0.2)
    for _ in range(3):
        signal = torch.stack([signal[head] @ weights[0, head] for head in range(2)])
    torch.testing.assert_close(page_rank(weights, 3)[0], signal.square().mean(0).sqrt())


def test_class_attention_is_a_row_of_the_weights() -> None:
    query, key = random(2, 3, 7, 4), random(2, 3, 7, 4, seed=1)
    weights = probabilities(query, key, 0.5)
    torch.testing.assert_close(of_first(query, key, 0.5), weights[:, :, :1])
    torch.testing.assert_close(of_last(query, key, 0.5), weights[:, :, -1:])
    torch.testing.assert_close(received(weights).sum(1), torch.ones(2))
    shared = probabilities(query.repeat(1, 2, 1, 1), key, 0.5)
    torch.testing.assert_close(shared[:, ::2][:, :1], probabilities(query[:, :1], key[:, :1], 0.5))


def test_what_is_fused_is_the_weighted_average() -> None:
    x, score = random(1, 5, 3), torch.tensor([[0.5, 0.1, 0.2, 0.15, 0.05]])
    kept = torch.tensor([[0, 2]])
    _, weight = fused(score, kept)
    made, size = joined_rest(x, kept, weight[:, :, None], torch.ones(1, 5, 1))
    rest = [1, 3, 4]
    wanted = sum(score[0, i] * x[0, i] for i in rest) / sum(score[0, i] for i in rest)
    torch.testing.assert_close(made[0, 2], wanted)
    torch.testing.assert_close(made[0, :2], x[0, [0, 2]])
    assert size.flatten().tolist() == [1.0, 1.0, 3.0]


def test_centres_of_the_rest_are_unlike_each_other() -> None:
    clusters = torch.eye(3).repeat_interleave(4, 0) + 0.01 * random(12, 3)
    metric = torch.cat([torch.ones(1, 3), clusters])[None]
    score = protected(torch.zeros(1, 13), 1)
    parent = diverse(score, metric, 1, 3, neighbours=3)[0]
    assert parent[0] == 0
    assert [len(set(parent[1 + 4 * i : 5 + 4 * i].tolist())) for i in range(3)] == [1, 1, 1]
    assert len(set(parent.tolist())) == 4


def test_the_corner_of_each_cell_stays() -> None:
    going, staying = corners(4, 4)
    assert staying == [0, 2, 8, 10]
    parent = by_cell(random(2, 16, 5), 9, going, staying)
    assert (parent != torch.arange(16)).sum(1).tolist() == [9, 9]
    assert set(parent[parent != torch.arange(16)].tolist()) <= set(staying)


@pytest.mark.parametrize("name", [*MERGE, *PRUNE])
def test_every_method_leaves_what_it_says(name: str) -> None:
    method = {**MERGE, **PRUNE}[name]
    x, key = random(2, 16, 8), random(2, 3, 16, 4, seed=1)
    weights = probabilities(key, key, 0.5)
    attention = {"keys": None, "class": weights[:, :, :1], "last": weights[:, :, -1:], "all": weights}[method.needs]
    first = 0 if name == "grid" else 2
    made, place, kept, size = Step(method, Rate(count=5), first, grid=(4, 4))(x, key, attention, None, None, None)
    assert made.shape == (2, 11, 8) and kept.shape == (2, 11)
    assert place.shape == (2, 16) and int(place.max()) == 10
    torch.testing.assert_close(made[:, :first], x[:, :first])
    if size is not None:
        torch.testing.assert_close(size.sum(1), torch.full((2, 1), 16.0))
    again = Step(method, Rate(count=2), first)(made, key[:, :, :11], None if attention is None else
        attention[:, :, :11, :11], size, place, kept) if name != "grid" else None  # fmt: skip
    assert again is None or (again[0].shape == (2, 9, 8) and int(again[1].max()) == 8)


def test_scores_protect_and_hide() -> None:
    score = torch.tensor([[0.1, 0.2, 0.9, 0.8]])
    padding = torch.tensor([[False, False, True, False]])
    assert best(protected(score, 1, padding), 2).tolist() == [[0, 3]]
