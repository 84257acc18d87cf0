"""Pooling, landmarks, samples, features and learned features against their papers' formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attention

from tersor.attention.blocks import hidden
from tersor.attention.distilled import distill, distilled_attention, features
from tersor.attention.landmarks import landmark_attention, pseudo_inverse, segment_means
from tersor.attention.linear import linear_attention
from tersor.attention.pooled import pooled_attention
from tersor.attention.random_features import positive_features, projection, random_feature_attention
from tersor.attention.residual import (
    guided_attention,
    mean_residual,
    residual_of,
    step_change,
    with_residual,
)
from tersor.attention.sampled import sampled_attention, strata
from tersor.attention.shared_maps import attention_map, map_distance, shared_attention


def operands(length: int = 24, shared: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(length)
    return torch.randn(2, 4, length, 8), torch.randn(2, shared, length, 8), torch.randn(2, shared, length, 5)


def close(got: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def lost(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).square().sum() / wanted.square().sum())


@pytest.mark.parametrize("prefix", [0, 1])
def test_pooling_equal_keys_is_exact(prefix: int) -> None:
    """A window of equal keys and values stands for each of them, as often as there are."""
    query, key, value = operands(12)
    key, value = (torch.cat([x[:, :, :prefix], x.repeat_interleave(3, 2)], 2) for x in (key, value))
    close(pooled_attention(query, key, value, window=3, prefix=prefix), attention(query, key, value))


def test_pooling_squares_of_a_grid() -> None:
    query, key, value = operands(16)
    keys, values = (x.reshape(2, 4, 2, 2, 2, 2, -1).mean((3, 5)).flatten(2, 3) for x in (key, value))
    close(pooled_attention(query, key, value, window=2, line=4), attention(query, keys, values))


def test_pooling_leaves_masked_keys_out() -> None:
    query, key, value = operands(12)
    key, value = key.repeat_interleave(2, 2)[:, :, :23], value.repeat_interleave(2, 2)[:, :, :23]
    bias = torch.zeros(2, 1, 1, 23)
    bias[0, ..., 9:] = hidden(torch.float32)
    close(pooled_attention(query, key, value, bias, window=2), attention(query, key, value, bias))


def test_landmarks_follow_the_paper() -> None:
    query, key, value = operands(24)
    near, far = segment_means(query, 6), segment_means(key, 6)
    assert torch.equal(near, query.reshape(2, 4, 6, 4, 8).mean(3))
    one, two, three = (a @ b.mT / math.sqrt(8) for a, b in ((query, far), (near, far), (near, key)))
    wanted = one.softmax(-1) @ torch.linalg.pinv(two.softmax(-1)) @ three.softmax(-1) @ value
    close(landmark_attention(query, key, value, landmarks=6, steps=40), wanted, 2e-3)


def test_pseudo_inverse_converges_as_the_paper_says() -> None:
    core = torch.randn(3, 8, 8).mul(2).softmax(-1)
    errors = [float((core @ pseudo_inverse(core, steps) @ core - core).norm()) for steps in (2, 6, 12, 24)]
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 1e-2


def test_all_keys_sampled_is_exact_and_more_are_better() -> None:
    query, key, value = operands(64)
    full = attention(query, key, value)
    close(sampled_attention(query, key, value, heavy=24, samples=40), full)
    losses = [lost(sampled_attention(query, key, value, heavy=n, samples=n), full) for n in (4, 16, 28)]
    assert losses[0] > losses[1] > losses[2]


def test_strata_stand_for_all_keys() -> None:
    for total, heavy, samples in ((64, 8, 8), (13, 3, 4), (9, 0, 2), (5, 4, 8)):
        places, counts = strata(total, heavy, samples)
        assert sum(counts) == total
        assert len(set(places)) == len(places) and max(places) < total


def test_sampling_with_hidden_keys() -> None:
    query, key, value = operands(24)
    bias = torch.zeros(2, 1, 1, 24)
    bias[..., 12:] = hidden(torch.float32)
    got = sampled_attention(query, key, value, bias, heavy=12, samples=2)
    close(got, attention(query, key, value, bias))


def test_linear_attention_is_its_sum() -> None:
    query, key, value = operands(13)
    query, key = query.exp(), key.exp()
    products = query @ key.mT
    close(linear_attention(query, key, value), products / products.sum(-1, keepdim=True) @ value)
    products = products.tril()
    wanted = products / products.sum(-1, keepdim=True) @ value
    for chunk in (1, 4, 13, 64):
        close(linear_attention(query, key, value, causal=True, chunk=chunk), wanted)


def test_random_features_estimate_the_kernel_without_bias() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(5, 8) / 4, torch.randn(6, 8) / 4
    generator = torch.Generator().manual_seed(1)
    w = torch.cat([projection(8, 8, generator) for _ in range(2000)])
    estimate = (
        ((x @ w.T - x.square().sum(-1, keepdim=True) / 2).exp())
        @ ((y @ w.T - y.square().sum(-1, keepdim=True) / 2).exp()).T
        / len(w)
    )
    torch.testing.assert_close(estimate, (x @ y.T).exp(), rtol=0.05, atol=0.0)
    features_of = positive_features(x[None, None], w, rows=False)
    assert float(features_of.max()) <= 1.0


@pytest.mark.parametrize("causal", [False, True])
def test_more_random_features_are_better(causal: bool) -> None:
    query, key, value = operands(32, shared=2)
    query, key = query / 2, key / 2
    full = attention(query, key, value, is_causal=causal, enable_gqa=True)
    losses = []
    for count in (8, 64, 2048):
        w = projection(8, count, torch.Generator().manual_seed(3))
        losses.append(lost(random_feature_attention(query, key, value, directions=w, causal=causal), full))
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.02


def test_random_features_weigh_masked_keys_exactly() -> None:
    query, key, value = operands(16)
    w = projection(8, 256, torch.Generator().manual_seed(0))
    bias = torch.zeros(2, 1, 1, 16)
    bias[..., 10:] = hidden(torch.float32)
    got = random_feature_attention(query, key, value, bias, directions=w)
    close(got, random_feature_attention(query, key[:, :, :10], value[:, :, :10], directions=w), 1e-3)


def test_learned_features_follow_the_paper_and_learn() -> None:
    weight = torch.randn(4, 8, 6)
    x = torch.randn(2, 4, 3, 8)
    found = torch.einsum("bhle,hef->bhlf", x, weight)
    close(features(x, weight), torch.cat([found.softmax(-1), (-found).softmax(-1)], -1))
    query, key, value = operands(32)
    value = value + key[..., :5]
    calls = [(query, key, value, None)]
    full = attention(query, key, value)
    losses = []
    for steps in (1, 100):
        asked, known = distill(calls, [full], width=8, steps=steps)
        losses.append(lost(distilled_attention(query, key, value, asked=asked, known=known), full))
    assert losses[1] < 0.5 * losses[0]


def test_residual_of_one_step_corrects_the_next() -> None:
    full, window = torch.randn(2, 4, 6, 5), torch.randn(2, 4, 6, 5)
    close(with_residual(window, residual_of(full, window)), full)
    missing = torch.randn(4, 6, 5)
    close(mean_residual([window + missing, full + missing], [window, full], tokens=True), missing, 1e-5)
    assert mean_residual([full], [window], tokens=False).shape == (4, 1, 5)
    assert float(step_change(full, full * 1.1).max()) == pytest.approx(0.01 / 1.21, rel=1e-3)


def test_guidance_reuses_the_conditional_half() -> None:
    query, key, value = operands(6, shared=2)
    got = guided_attention(query, key, value)
    full = attention(query, key, value, enable_gqa=True)
    close(got[:1], full[:1])
    assert torch.equal(got[0], got[1])


@pytest.mark.parametrize("causal", [False, True])
def test_maps_are_those_of_attention(causal: bool) -> None:
    query, key, value = operands(9, shared=2)
    mask = torch.rand(9, 9) > 0.2
    mask[:, 0] = True
    maps = attention_map(query, key, None if causal else mask, causal=causal)
    wanted = attention(query, key, value, None if causal else mask, is_causal=causal, enable_gqa=True)
    close(shared_attention(maps, value), wanted)
    assert float(map_distance(maps, maps).max()) == 0.0
