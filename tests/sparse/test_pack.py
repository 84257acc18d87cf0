"""Packing against PyTorch's own conversion for CUTLASS, which runs on CPU tensors."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.sparse import _semi_structured_conversions as conversions

from tersor.errors import UsageError
from tersor.sparse.masks import magnitude
from tersor.sparse.pack import TWO_FOUR, dense_bytes, pack, packed_bytes, unpack


def pruned(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randint(1, 100, (rows, columns), generator=draw).float() * torch.tensor([1.0, -1.0]).repeat(
        columns // 2
    )
    return (weight * magnitude(weight, TWO_FOUR)).to(dtype)


@pytest.mark.skipif(sys.byteorder != "little", reason="bytes are taken as words")
@pytest.mark.parametrize(
    ("dtype", "word"),
    [(torch.float16, torch.int16), (torch.bfloat16, torch.int16), (torch.int8, torch.int32)],
)
def test_torch_packs_alike(dtype: torch.dtype, word: torch.dtype) -> None:
    weight = pruned(64, 128, dtype)
    packed = pack(weight)
    values, reordered = conversions.sparse_semi_structured_from_dense_cutlass(weight)
    words = packed.metadata.view(word)
    offsets = conversions._calculate_meta_reordering_scatter_offsets(len(words), words.shape[1], word, "cpu")
    assert torch.equal(packed.values, values)
    assert torch.equal(words.flatten(), reordered.flatten()[offsets])


@pytest.mark.skipif(sys.byteorder != "little", reason="bytes are taken as words")
def test_torch_unpacks_what_has_more_zeros() -> None:
    weight = pruned(32, 64, torch.float16)
    weight[:, ::3] = 0
    weight[:4] = 0
    packed = pack(weight)
    words = packed.metadata.view(torch.int16)
    offsets = conversions._calculate_meta_reordering_scatter_offsets(len(words), words.shape[1], torch.int16, "cpu")
    reordered = torch.empty_like(words).flatten().scatter_(0, offsets, words.flatten()).view_as(words)
    assert torch.equal(conversions.sparse_semi_structured_to_dense_cutlass(packed.values, reordered), weight)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([(0, 0, 0, 0), (5, 0, 0, 0), (0, 0, 0, -7), (0, 3, 4, 0), (1, 0, 0, 2)]), min_size=1))
def test_unpacking_gives_the_weight_back(parts: list[tuple[int, ...]]) -> None:
    for dtype in (torch.int8, torch.float32, torch.bfloat16):
        weight = torch.tensor(parts, dtype=dtype).reshape(1, -1)
        packed = pack(weight)
        assert torch.equal(unpack(packed), weight)
        places = torch.stack([packed.metadata & 3, packed.metadata >> 2 & 3])
        assert bool((places[0] < places[1]).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("columns", [8, 12, 64])
def test_bytes_are_those_of_the_tensors(dtype: torch.dtype, columns: int) -> None:
    weight = pruned(4, columns, torch.float32).to(dtype)
    packed = pack(weight)
    assert torch.equal(unpack(packed).float(), weight.float())
    assert packed.nbytes == packed_bytes(4, columns, dtype)
    assert dense_bytes(4, columns, dtype) == weight.nbytes


def test_what_is_not_two_of_four_is_refused() -> None:
    with pytest.raises(UsageError, match="more than two of four"):
        pack(torch.ones(1, 4))
    with pytest.raises(UsageError, match="3 dimensions"):
        pack(torch.zeros(1, 4, 4))
    with pytest.raises(UsageError, match="6 inputs"):
        pack(torch.zeros(1, 6))
