"""Two thin layers: against numpy's singular values, random subspaces, and data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tersor.factor.gradients import Metric, metric
from tersor.factor.observe import Moments
from tersor.factor.principal import Components, factors, of_inputs, of_outputs, of_weight


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def skewed_inputs(rows: int, width: int) -> Tensor:
    """Rows whose variance falls along hidden directions, around a mean."""
    scale = torch.logspace(0, -3, width, dtype=torch.float64)
    return normal(rows, width) * scale @ normal(width, width, seed=1) + normal(width, seed=2)


def outputs_of(made: tuple[Tensor, Tensor, Tensor | None], inputs: Tensor) -> Tensor:
    first, second, shift = made
    return inputs @ first.T @ second.T + (0.0 if shift is None else shift)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (9, 9)])
@pytest.mark.parametrize("rank", [1, 4, 9])
def test_weights_alone_give_the_truncated_singular_value_decomposition(shape: tuple[int, int], rank: int) -> None:
    weight = normal(*shape)
    parts = of_weight(weight)
    first, second, shift = factors(weight, None, parts, rank)
    left, values, right = np.linalg.svd(weight.numpy(), full_matrices=False)
    wanted = left[:, :rank] * values[:rank] @ right[:rank]
    assert shift is None
    np.testing.assert_allclose((second @ first).numpy(), wanted, atol=1e-9)
    np.testing.assert_allclose(parts.tail(rank), (values[rank:] ** 2).sum() / (values**2).sum(), atol=1e-9)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
def test_full_rank_is_exact(side: str, shape: tuple[int, int]) -> None:
    weight, bias, inputs = normal(*shape), normal(shape[0], seed=3), skewed_inputs(100, shape[1])
    made = factors(weight, bias, seen(weight, bias, inputs, side), min(shape))
    torch.testing.assert_close(outputs_of(made, inputs), inputs @ weight.T + bias)


def seen(weight: Tensor, bias: Tensor | None, inputs: Tensor, side: str, m: Metric | None = None) -> Components:
    if side == "inputs":
        return of_inputs(weight, bias, Moments.of(inputs), m)
    outputs = inputs @ weight.T + (0.0 if bias is None else bias)
    return of_outputs(weight, Moments.of(outputs), m)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
@pytest.mark.parametrize("bias", [True, False])
def test_nearer_to_the_outputs_than_the_weights_singular_vectors_and_than_random_subspaces(
    side: str, bias: bool
) -> None:
    weight, shift, inputs = normal(16, 24), normal(16, seed=5) if bias else None, skewed_inputs(20000, 24)
    wanted = inputs @ weight.T + (0.0 if shift is None else shift)
    parts = seen(weight, shift, inputs, side)

    def error(components: Components) -> float:
        return float((outputs_of(factors(weight, shift, components, 5), inputs) - wanted).square().sum())

    ours = error(parts)
    assert ours < error(of_weight(weight))
    for seed in range(20):
        basis = torch.linalg.qr(normal(16, 16, seed=seed)).Q
        assert ours < error(Components(basis, basis.T, parts.values, parts.mean))
    spread = float((wanted - wanted.mean(0)).square().sum())
    # Few rows are mixed with white noise, so that the stated error is not exactly the one of the rows.
    assert ours / spread == pytest.approx(parts.tail(5), rel=0.1)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_the_mean_output_stays(side: str) -> None:
    weight, bias, inputs = normal(10, 8), normal(10, seed=1), skewed_inputs(300, 8)
    made = outputs_of(factors(weight, bias, seen(weight, bias, inputs, side), 2), inputs)
    torch.testing.assert_close(made.mean(0), (inputs @ weight.T + bias).mean(0))


def test_both_sides_see_the_same_subspace() -> None:
    weight, inputs = normal(12, 12), skewed_inputs(5000, 12)
    left, right = (seen(weight, None, inputs, side) for side in ("inputs", "outputs"))
    projections = [parts.basis[:, :4] @ parts.dual[:4] for parts in (left, right)]
    torch.testing.assert_close(*projections, atol=2e-2, rtol=0)


def test_two_rows_do_not_decide() -> None:
    weight, inputs = normal(32, 32), skewed_inputs(2, 32)
    assert of_outputs(weight, Moments.of(inputs @ weight.T)).rank(0.9) > 8


@pytest.mark.parametrize("full", [True, False])
def test_a_metric_moves_the_error_to_where_it_does_not_matter(full: bool) -> None:
    weight, inputs = normal(16, 24), skewed_inputs(4000, 24)
    mixing = normal(16, 16, seed=7) * torch.logspace(0, -2, 16, dtype=torch.float64)
    importance = mixing @ mixing.T if full else mixing.square().sum(1)
    m = metric(importance)
    wanted = inputs @ weight.T

    def error(components: Components) -> float:
        return float(m.into((outputs_of(factors(weight, None, components, 4), inputs) - wanted).T).square().sum())

    parts = seen(weight, None, inputs, "outputs", m)
    assert error(parts) < error(seen(weight, None, inputs, "outputs"))
    assert error(parts) / len(inputs) == pytest.approx(parts.tail(4), rel=0.1)
    torch.testing.assert_close(parts.dual @ parts.basis, torch.eye(16, dtype=torch.float64))


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_inputs_that_never_change_are_kept_by_the_bias(side: str) -> None:
    weight, inputs = normal(6, 5), normal(1, 5, seed=1).expand(50, 5)
    made = factors(weight, None, seen(weight, None, inputs, side), 1)
    torch.testing.assert_close(outputs_of(made, inputs), inputs @ weight.T)
    assert all(float(part.abs().max()) < 1e3 for part in made[:2])


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_factors_are_of_the_size_of_the_weight(scale: float) -> None:
    weight, inputs = normal(16, 24), skewed_inputs(400, 24) * scale
    first, second, _ = factors(
        weight, None, seen(weight, None, inputs, "outputs", metric((m := normal(16, 3)) @ m.T * scale)), 4
    )
    assert float(second.norm(dim=0).max()) < 1.001 and float(first.abs().max()) < 50


def test_rank_by_share() -> None:
    parts = of_weight(torch.diag(torch.tensor([3.0, 2.0, 1.0])))
    assert [parts.rank(share) for share in (0.5, 0.65, 0.93, 1.0)] == [1, 2, 3, 3]
    assert parts.kept(2) == pytest.approx(13 / 14)
