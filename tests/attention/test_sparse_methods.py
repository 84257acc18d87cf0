"""Windows, block masks and block selection compute what dense attention with the same mask computes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attention

from tersor.attention.block_mask import as_mask, block_mass, choose_blocks, head_class, masked_attention
from tersor.attention.block_select import select_blocks, selected_attention
from tersor.attention.blocks import hidden, take
from tersor.attention.permuted import key_order, permuted_attention
from tersor.attention.window import window_attention

SHARED = {False: {}, True: {"enable_gqa": True}}


def operands(length: int, *, heads: int = 4, shared: int = 4, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(length)
    query = torch.randn(batch, heads, length, 8)
    key, value = torch.randn(batch, shared, length, 8), torch.randn(batch, shared, length, 5)
    return query, key, value


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=2e-5, atol=2e-5)


def seen_by_window(length: int, reach: int, sinks: int, dilation: int, causal: bool) -> Tensor:
    """The papers' masks, written as they say it."""
    i, j = torch.arange(length)[:, None], torch.arange(length)[None]
    near = ((i - j).abs() <= reach * dilation) & ((i - j) % dilation == 0)
    seen = near | (j < sinks)
    return seen & (j <= i) if causal else seen


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shared", [4, 2])
@pytest.mark.parametrize(
    ("length", "reach", "block", "sinks", "dilation"),
    [(24, 8, 8, 0, 1), (23, 8, 4, 0, 1), (29, 4, 4, 3, 1), (5, 8, 8, 2, 1), (31, 4, 4, 0, 3), (24, 4, 2, 0, 2)],
)  # fmt: skip
def test_window_equals_the_mask(
    length: int, reach: int, block: int, sinks: int, dilation: int, shared: int, causal: bool
) -> None:
    query, key, value = operands(length, shared=shared)
    seen = seen_by_window(length, reach, sinks, dilation, causal)
    wanted = attention(query, key, value, seen, enable_gqa=True)
    got = window_attention(
        query, key, value, reach=reach, block=block, sinks=sinks, dilation=dilation, causal=causal
    )  # fmt: skip
    close(got, wanted)


@pytest.mark.parametrize("shape", [(1, 1, 1, 21), (2, 1, 1, 21), (1, 1, 21, 21), (1, 4, 21, 21), (2, 1, 21, 21)])
@pytest.mark.parametrize("sinks", [0, 2])
def test_window_keeps_the_bias(shape: tuple[int, ...], sinks: int) -> None:
    query, key, value = operands(21)
    bias = torch.randn(shape)
    bias[..., 17] = hidden(torch.float32)
    low = torch.where(seen_by_window(21, 4, sinks, 1, False), 0.0, -math.inf)
    close(
        window_attention(query, key, value, bias, reach=4, sinks=sinks, scale=0.3),
        attention(query, key, value, bias + low, scale=0.3),
    )


def test_dilated_window_keeps_hidden_keys_hidden() -> None:
    query, key, value = operands(22)
    bias = torch.zeros(2, 1, 1, 22)
    bias[1, ..., 15:] = hidden(torch.float32)
    low = torch.where(seen_by_window(22, 4, 0, 3, False), 0.0, -math.inf)
    got, wanted = (
        window_attention(query, key, value, bias, reach=4, dilation=3),
        attention(query, key, value, bias + low),
    )
    unseen = (bias + low).amax(-1) < -1  # rows without any key to see have no meaning
    close(got.masked_fill(unseen[..., None], 0.0), wanted.masked_fill(unseen[..., None], 0.0))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shared", [4, 2])
@pytest.mark.parametrize("length", [32, 30])
def test_fixed_blocks_equal_their_mask(length: int, shared: int, causal: bool) -> None:
    query, key, value = operands(length, shared=shared)
    mass = block_mass(query, key, rows=8, block=4, causal=causal)
    index = choose_blocks(mass, 3, rows=8, block=4, causal=causal)[0]
    seen = as_mask(index, length, length, rows=8, block=4, causal=causal)
    wanted = attention(query, key, value, seen, enable_gqa=True)
    close(masked_attention(query, key, value, index=index, rows=8, block=4, causal=causal), wanted)


def test_block_mass_is_the_softmax_summed() -> None:
    query, key, _ = operands(10)
    weights = (query @ key.mT / 8**0.5).softmax(-1).mean(0)
    padded = torch.nn.functional.pad(weights, (0, 2, 0, 2))
    wanted = padded.reshape(4, 3, 4, 3, 4).sum((2, 4)) / torch.tensor([4.0, 4.0, 2.0])[:, None]
    torch.testing.assert_close(block_mass(query, key, rows=4, block=4), wanted)


def test_the_heaviest_blocks_are_chosen() -> None:
    mass = torch.rand(2, 4, 6)
    index = choose_blocks(mass, 2, rows=4, block=4)
    assert (index[0] == mass.topk(2, -1).indices.sort(-1).values).all()
    past = choose_blocks(mass, 2, rows=8, block=4, causal=True)
    assert past[0, 0, 0].tolist() == [6, 6]  # the first queries have nothing before them
    assert set(past[0, 0, 1].tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("picture", "name"),
    [
        (torch.eye(5), "local"),
        (torch.eye(5).roll(1, 0) * 0 + torch.eye(5)[:1], "sink"),
        (torch.eye(5) / 2 + torch.eye(5)[:1] / 2, "sink and local"),
        (torch.full((5, 5), 0.2), "global"),
    ],
)
def test_head_classes(picture: Tensor, name: str) -> None:
    assert head_class(picture) == name


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("proxies", [0, 2])
def test_selected_blocks_are_those_whose_means_score_highest(proxies: int, causal: bool) -> None:
    query, key, value = operands(32)
    index = select_blocks(query, key, rows=8, block=4, keep=2, proxies=proxies, causal=causal)
    asked, known = query.reshape(2, 4, 4, 8, 8).mean(3), key.reshape(2, 4, 8, 4, 8).mean(3)
    if proxies:
        asked, known = (x.reshape(2, 2, 2, *x.shape[2:]).mean(2).repeat_interleave(2, 1) for x in (asked, known))
    scores = asked @ known.mT
    for row in range(4):
        before = scores[:, :, row, : 2 * row] if causal else scores[:, :, row]
        if before.shape[-1] >= 2:
            assert (before.topk(2, -1).indices == index[:, :, row]).all()
    seen = torch.cat([as_mask(index[sample], 32, 32, rows=8, block=4, causal=causal) for sample in range(2)])
    got = selected_attention(query, key, value, rows=8, block=4, keep=2, proxies=proxies, causal=causal)
    close(got, attention(query, key, value, seen))


def test_selection_hides_masked_keys() -> None:
    query, key, value = operands(32)
    bias = torch.zeros(2, 1, 1, 32)
    bias[0, ..., 20:] = hidden(torch.float32)
    got = selected_attention(query, key, value, bias, rows=8, block=4, keep=8)
    close(got, attention(query, key, value, bias))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [32, 27])
def test_permutation_of_all_keys_changes_nothing(length: int, causal: bool) -> None:
    query, key, value = operands(length, shared=2)
    got = permuted_attention(
        query, key, value, segment=8, block=4, keep=8 if causal else -(-length // 4), causal=causal
    )
    close(got, attention(query, key, value, is_causal=causal, enable_gqa=True))


def test_keys_are_sorted_by_the_attention_of_the_last_queries() -> None:
    query, key, _ = operands(16)
    weights = (query[:, :, -8:] @ key.mT / 8**0.5).softmax(-1).mean(2)
    wanted = weights.reshape(2, 4, 2, 8).argsort(-1, descending=True)
    assert (key_order(query, key, segment=8, causal=True) == wanted).all()


def test_permutation_raises_block_sparsity() -> None:
    """Heavy keys scattered over all blocks: few blocks hold them only after the permutation (the paper's claim)."""
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 2, 128, 16), torch.randn(1, 2, 128, 16) * 0.1, torch.randn(1, 2, 128, 16)
    query = query * 0.1 + 2.0
    key[:, :, ::8] += 1.0
    full = attention(query, key, value)
    plain = selected_attention(query, key, value, rows=16, block=16, keep=2)
    sorted_first = permuted_attention(query, key, value, segment=64, block=16, keep=2)
    lost = [float((made - full).square().sum() / full.square().sum()) for made in (plain, sorted_first)]
    assert lost[1] < 0.1 * lost[0]


def test_permutation_with_hidden_keys() -> None:
    query, key, value = operands(30)
    bias = torch.zeros(2, 1, 1, 30)
    bias[1, ..., 25:] = hidden(torch.float32)
    close(permuted_attention(query, key, value, bias, segment=8, block=4, keep=8), attention(query, key, value, bias))


def test_take_with_a_batch_of_its_own() -> None:
    blocks, index = torch.randn(3, 2, 5, 4), torch.randint(0, 5, (3, 4, 2, 3))
    got = take(blocks, index)
    wanted = torch.stack([blocks[b, h // 2][index[b, h]] for b in range(3) for h in range(4)]).reshape(3, 4, 2, 3, 4)
    assert (got == wanted).all()
