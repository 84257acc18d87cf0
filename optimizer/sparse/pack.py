"""Storage of 2:4 weights: the kept values, and two bits for the place of each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.sparse.pattern import Pattern, blocks, is_pattern

TWO_FOUR = Pattern(2, 4)
"""The pattern of sparse tensor cores (NVIDIA A100 architecture whitepaper, 2020)."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A 2:4 matrix.

    Attributes:
        values: the two kept weights of each block in their order, ``[out, in / 2]``.
        metadata: places of kept weights within their block, two bits each and the earlier one in the lower bits, so
            four bits for a block and two blocks in a byte, the earlier block in the lower bits: uint8
            ``[out, ceil(in / 8)]``. On little-endian machines its bytes taken as int16 are PyTorch's and CUTLASS's
            metadata for 16-bit weights before their reordering, taken as int32 those for 8-bit weights.
    """

    values: Tensor
    metadata: Tensor

    @property
    def inputs(self) -> int:
        """Columns of the dense matrix."""
        return 2 * self.values.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes that both take."""
        return self.values.nbytes + self.metadata.nbytes


def pack(weight: Tensor) -> Packed:
    """A 2:4 matrix ``[out, in]`` of any dtype without its zeros; blocks with fewer than two others keep some.

    Raises:
        UsageError: it is no matrix, or not 2:4.

    >>> packed = pack(torch.tensor([[5, 0, 0, 7]]))
    >>> packed.values.tolist(), packed.metadata.tolist()
    ([[5, 7]], [[12]])
    """
    if weight.dim() != 2:
        raise UsageError(f"a weight of {weight.dim()} dimensions cannot be packed", "a matrix [out, in]")
    parts = blocks(weight, TWO_FOUR)
    if not is_pattern(weight, TWO_FOUR):
        raise UsageError("the weight has more than two of four that are not zero", "prune it to 2:4 first")
    # A stable sort puts those that are not zero first, and fills up with the first zeros.
    places = (parts != 0).to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices[..., :2].sort(-1).values
    values = _bits(parts).gather(-1, places).flatten(1).view(weight.dtype)
    nibbles = (places[..., 0] + 4 * places[..., 1]).to(torch.uint8)
    if nibbles.shape[1] % 2:
        nibbles = torch.cat([nibbles, nibbles.new_zeros(len(nibbles), 1)], 1)
    return Packed(values, nibbles[:, 0::2] + 16 * nibbles[:, 1::2])


def unpack(packed: Packed) -> Tensor:
    """The dense matrix ``[out, in]``.

    >>> unpack(pack(torch.tensor([[0, 5, 7, 0]]))).tolist()
    [[0, 5, 7, 0]]
    """
    metadata = packed.metadata.long()
    nibbles = torch.stack([metadata & 15, metadata >> 4], -1).flatten(1)[:, : packed.inputs // 4]
    places = torch.stack([nibbles & 3, nibbles >> 2], -1)
    values = _bits(packed.values).unflatten(1, (-1, 2))
    dense = values.new_zeros(len(places), packed.inputs // 4, 4)
    return dense.scatter_(-1, places, values).flatten(1).view(packed.values.dtype)


def _bits(value: Tensor) -> Tensor:
    """Eight-bit floating point numbers as bytes: PyTorch does not gather them on every device."""
    return value.view(torch.uint8) if value.dtype.is_floating_point and value.dtype.itemsize == 1 else value


def dense_bytes(rows: int, columns: int, dtype: torch.dtype) -> int:
    """Bytes of a dense matrix."""
    return rows * columns * dtype.itemsize


def packed_bytes(rows: int, columns: int, dtype: torch.dtype) -> int:
    """Bytes of a packed one: 9/16 of the dense ones for 16-bit weights, 10/16 for 8-bit ones.

    >>> packed_bytes(16, 64, torch.bfloat16) / dense_bytes(16, 64, torch.bfloat16)
    0.5625
    """
    return rows * (columns // 2 * dtype.itemsize + -(-columns // 8))
