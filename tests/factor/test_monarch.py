"""Block-diagonal and Monarch forms: exact where they can be, nearest where not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tersor.factor.monarch import Monarch, balanced, block_roots, blocks, partition, project, spectrum


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ONES = torch.ones(12, dtype=torch.float64)


@pytest.mark.parametrize("count", [(2, 2), (3, 2), (4, 8)])
def test_full_rank_is_exact(count: tuple[int, int]) -> None:
    weight = normal(12, 16)
    rank = min(12 // count[0], 16 // count[1])
    made = project(weight, block_roots(None, 16, count[1]), ONES, count[0], rank)
    torch.testing.assert_close(made.weight, weight)


def test_planted_factors_are_found() -> None:
    weight = Monarch(normal(4, 4, 3, 1), normal(3, 4, 1, 4, seed=1)).weight
    assert torch.linalg.matrix_rank(weight) == 12
    torch.testing.assert_close(project(weight, block_roots(None, 16, 4), ONES, 3, 1).weight, weight)


def test_the_error_is_the_rest_of_the_spectrum() -> None:
    weight, roots, scale = normal(12, 16), block_roots(None, 16, 4), normal(12, seed=3).abs() + 0.1
    made = project(weight, roots, scale, 3, 2)
    error = ((made.weight - weight) * scale[:, None]).square().sum()
    torch.testing.assert_close(error, spectrum(weight, roots, scale, 3)[2:].sum())


def test_roots_of_the_data_lower_the_error_within_blocks() -> None:
    weight = normal(12, 16)
    x = torch.cat([normal(500, 4, seed=s) @ (normal(4, 4, seed=s + 9) * torch.logspace(0, -2, 4)) for s in range(4)], 1)
    roots = block_roots(x.T @ x / len(x), 16, 4)
    errors = [
        float((x @ (project(weight, r, ONES, 3, 1).weight - weight).T).square().sum())
        for r in (roots, block_roots(None, 16, 4))
    ]
    assert errors[0] < errors[1]


def test_the_middle_and_the_second_factor_give_the_outputs() -> None:
    made, x = project(normal(12, 16), block_roots(None, 16, 4), ONES, 3, 2), normal(5, 16, seed=2)
    outputs = torch.einsum("nam,amo->nao", made.middle(x), made.second.flatten(1, 2)).flatten(1)
    torch.testing.assert_close(outputs, x @ made.weight.T)


def test_blocks_are_submatrices() -> None:
    weight = normal(6, 8)
    assert torch.equal(blocks(weight, 3, 2)[2, 1], weight[4:6, 4:8])


def test_a_hidden_partition_is_found() -> None:
    rows, columns = torch.randperm(12) % 3, torch.randperm(18) % 3
    energy = (rows[:, None] == columns[None]).double() + 0.01 * normal(12, 18).abs()
    found = partition(energy, 3)
    same = found[0][:, None] == found[1][None]
    assert torch.equal(same, rows[:, None] == columns[None])


def test_parts_are_equal() -> None:
    assert balanced(normal(20, 4)).bincount().tolist() == [5] * 4
    assert [part.bincount().tolist() for part in partition(normal(8, 12).abs(), 4)] == [[2] * 4, [3] * 4]
