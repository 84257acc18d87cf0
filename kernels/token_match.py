"""`tersor::token_match`: for each token of one set the most similar one of another, without storing similarities.

The bipartite matching of token merging (Bolya et al., ToMe, arXiv:2210.09461).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tersor.cost.roofline import Work
from tersor.errors import UsageError
from tersor.kernels.ahead_of_time import Variant
from tersor.kernels.autotune import best
from tersor.kernels.language import (
    blocks,
    capability,
    check_floats,
    check_shape,
    empty,
    jit,
    on_gpu,
    run,
    static,
    tl,
    wrap_triton,
)
from tersor.kernels.tile import Table, Tile, chosen, tile

NAME = "tersor::token_match"
SMALLEST = 1e-12
"""Least length that a token is divided by, as in ``torch.nn.functional.normalize``."""

TILES: Table = {
    at: [
        (128, tile(4, 3, BLOCK_A=32, BLOCK_B=64, BLOCK_C=64)),
        (1 << 30, tile(4, 3, BLOCK_A=64, BLOCK_B=64, BLOCK_C=64)),
    ]
    for at in (80, 90)
}
"""By tokens."""


def reference(a: Tensor, b: Tensor, cosine: bool = True) -> tuple[Tensor, Tensor]:
    """The largest similarity of each token of ``a``, and which token of ``b`` it is; the first of equal ones.

    Args:
        a: ``[batch, S, channels]``, float32, float16 or bfloat16.
        b: ``[batch, T, channels]``, T at least 1.
        cosine: divide by the lengths of both; otherwise plain products.

    Returns:
        Float32 and int64 ``[batch, S]``.

    Raises:
        UsageError: shapes or dtypes do not belong together.

    >>> best, which = reference(torch.eye(2)[None], torch.tensor([[[0.0, 2.0], [1.0, 0.0], [0.0, 1.0]]]))
    >>> best.tolist(), which.tolist()
    ([[1.0, 1.0]], [[1, 0]])
    """
    check(a, b)
    first, second = a.float(), b.float()
    if cosine:
        first, second = (torch.nn.functional.normalize(item, dim=-1, eps=SMALLEST) for item in (first, second))
    scores = first @ second.transpose(1, 2)
    highest = scores.amax(-1)
    places = torch.arange(scores.shape[-1], device=scores.device).expand(scores.shape)
    return highest, places.masked_fill(scores < highest[..., None], scores.shape[-1]).amin(-1)


def check(a: Tensor, b: Tensor) -> None:
    """Raise UsageError unless the operands of `reference` belong together."""
    check_floats(a=a, b=b)
    if a.dim() != 3 or b.dim() != 3:
        raise UsageError(f"{a.dim()} and {b.dim()} dimensions", "[batch, tokens, channels] each")
    check_shape("b", b, (a.shape[0], b.shape[1], a.shape[2]))
    if b.shape[1] < 1:
        raise UsageError("no tokens to match with", "at least one")


def work(batch: int, first: int, second: int, channels: int, dtype: torch.dtype) -> Work:
    """Operations and bytes of one call.

    >>> work(1, 98, 99, 64, torch.float16).operations
    1241856.0
    """
    moved = batch * ((first + second) * channels * dtype.itemsize + 12 * first)
    return Work(2.0 * batch * first * second * channels, moved)


@jit
def kernel(  # type: ignore[no-untyped-def]
    a, b, highest, which, first, second, channels, ab, at, bb, bt,
    COSINE: tl.constexpr, EXACT: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A block of tokens of ``a`` against all of ``b``; ``ab``, ``at``, ``bb`` and ``bt`` are strides."""
    count = tl.cdiv(first, BLOCK_A)
    batch = (tl.program_id(0) // count).to(tl.int64)
    row, column, channel = (
        tl.program_id(0) % count * BLOCK_A + tl.arange(0, BLOCK_A), tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_C)
    )  # fmt: skip
    row64 = tl.minimum(row, first - 1).to(tl.int64)
    a_at, b_at = a + batch * ab + row64[:, None] * at + channel[None, :], b + batch * bb + channel[:, None]
    top = tl.full([BLOCK_A], float("-inf"), tl.float32)
    place = tl.zeros([BLOCK_A], tl.int32)
    for start in range(0, second, BLOCK_B):
        token = start + column
        from_token = tl.minimum(token, second - 1).to(tl.int64)
        score, square = tl.zeros([BLOCK_A, BLOCK_B], tl.float32), tl.zeros([BLOCK_B], tl.float32)
        for c in range(0, channels, BLOCK_C):
            left = tl.load(a_at + c, mask=channel[None, :] < channels - c, other=0.0)
            right = tl.load(b_at + from_token[None, :] * bt + c, mask=channel[:, None] < channels - c, other=0.0)
            if EXACT:
                left, right = left.to(tl.float32), right.to(tl.float32)
            score = tl.dot(left, right, score, input_precision="ieee")
            if COSINE:
                wide = right.to(tl.float32)
                square += tl.sum(wide * wide, 0)
        if COSINE:
            score *= tl.rsqrt(tl.maximum(square, 1e-24))[None, :]
        score = tl.where(token[None, :] < second, score, float("-inf"))
        high, where = tl.max(score, 1, return_indices=True)
        place = tl.where(high > top, start + where, place)
        top = tl.maximum(top, high)
    if COSINE:
        square = tl.zeros([BLOCK_A], tl.float32)
        for c in range(0, channels, BLOCK_C):
            wide = tl.load(a_at + c, mask=channel[None, :] < channels - c, other=0.0).to(tl.float32)
            square += tl.sum(wide * wide, 1)
        top *= tl.rsqrt(tl.maximum(square, 1e-24))
    tl.store(highest + batch * first + row, top, mask=row < first)
    tl.store(which + batch * first + row, place.to(tl.int64), mask=row < first)


def launch(
    a: Tensor, b: Tensor, cosine: bool = True, exact: bool = False, cut: Tile | None = None
) -> tuple[Tensor, Tensor]:
    """`reference` by the Triton kernel, on a GPU or under Triton's interpreter.

    Args:
        exact: multiply in float32 whatever the format is, as the interpreter needs for bfloat16.
    """
    check(a, b)
    highest = a.new_empty(a.shape[:2], dtype=torch.float32)
    which = a.new_empty(a.shape[:2], dtype=torch.int64)
    if empty(highest):
        return highest, which
    a, b = (item if item.stride(-1) == 1 else item.contiguous() for item in (a, b))
    first, second, at = a.shape[1], b.shape[1], capability(a)
    operands = (a, b, highest, which, first, second, a.shape[2], *a.stride()[:2], *b.stride()[:2])

    def go(cut: Tile) -> None:
        grid = (blocks(first, cut.blocks["BLOCK_A"]) * a.shape[0],)
        run(wrap_triton(kernel), grid, cut, *operands, COSINE=cosine, EXACT=exact)

    key = (NAME, at, a.dtype, static(first), static(second), a.shape[2])
    go(cut or best(key, chosen(TILES, at, static(first)), [item for _, item in TILES[at]], go))
    return highest, which


@torch.library.triton_op(NAME, mutates_args=())
def token_match(a: Tensor, b: Tensor, cosine: bool = True) -> tuple[Tensor, Tensor]:
    """`reference`, by the Triton kernel on a GPU."""
    return launch(a, b, cosine) if on_gpu(a) else reference(a, b, cosine)


@token_match.register_fake
def _fake(a: Tensor, b: Tensor, cosine: bool = True) -> tuple[Tensor, Tensor]:
    check(a, b)
    return a.new_empty(a.shape[:2], dtype=torch.float32), a.new_empty(a.shape[:2], dtype=torch.int64)


def variants(at: int) -> Iterator[Variant]:
    """What it is compiled for ahead of time."""
    for dtype, tokens, channels in ((torch.bfloat16, 98, 64), (torch.float16, 2048, 64), (torch.float32, 98, 768)):
        text = f"{tokens} x {tokens} tokens, {channels} channels, {str(dtype).removeprefix('torch.')}"
        strides = (2 * tokens * channels, 2 * channels) * 2
        operands = (dtype, dtype, torch.float32, torch.int64, tokens, tokens, channels, *strides)
        constants = {"COSINE": True, "EXACT": False}
        yield Variant("token_match", text, kernel, operands, constants, chosen(TILES, at, tokens))
