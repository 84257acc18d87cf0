"""`tersor::attention`: softmax attention that never holds its scores, with masks that skip whole blocks of them.

Dao, FlashAttention-2 (arXiv:2307.08691). The softmax is computed in float32. Blocks of keys that a causal mask, a
window, lengths or a block mask hide are not read; blocks that none of these cuts are computed without masks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tersor.cost.roofline import Work
from tersor.errors import UsageError
from tersor.kernels._attention_kernel import kernel
from tersor.kernels.ahead_of_time import Operand, Variant
from tersor.kernels.autotune import best
from tersor.kernels.language import (
    blocks,
    capability,
    check_floats,
    check_shape,
    empty,
    on_gpu,
    power,
    run,
    static,
    wrap_triton,
)
from tersor.kernels.tile import Table, Tile, tile

NAME = "tersor::attention"
WIDEST = 256
"""Head size up to which a block of queries fits in registers."""
LISTS = (16, 32, 64, 128)
"""Sizes of blocks that a block mask may have: tensor cores want 16 at least."""

PLAIN: Table = {
    80: [
        (64, tile(4, 3, BLOCK_M=128, BLOCK_N=64)),
        (128, tile(8, 3, BLOCK_M=128, BLOCK_N=64)),
        (WIDEST, tile(8, 2, BLOCK_M=64, BLOCK_N=32)),
    ],
    90: [
        (64, tile(4, 3, BLOCK_M=128, BLOCK_N=64)),
        (128, tile(8, 3, BLOCK_M=128, BLOCK_N=64)),
        (WIDEST, tile(8, 2, BLOCK_M=64, BLOCK_N=64)),
    ],
}
"""By the larger head size, for 16-bit formats."""
CROWDED: Table = {
    at: [(64, tile(8, 2, BLOCK_M=128, BLOCK_N=32)), (WIDEST, tile(8, 2, BLOCK_M=64, BLOCK_N=32))] for at in (80, 90)
}
"""The same with a bias, which takes as many registers as the scores, or with heads that fill no power of two."""
WIDE: Table = {
    at: [(64, tile(4, 2, BLOCK_M=32, BLOCK_N=32)), (WIDEST, tile(8, 2, BLOCK_M=32, BLOCK_N=16))] for at in (80, 90)
}
"""The same for float32, which no tensor core multiplies exactly."""


def reference(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, lengths: Tensor | None = None,
    mask: Tensor | None = None, scale: float | None = None, causal: bool = False, window: int = 0, offset: int = 0,
    block: int = 64,
) -> Tensor:  # fmt: skip
    """Attention in float32, rounded once.

    Args:
        q: queries ``[batch, heads, M, D]``, float32, float16 or bfloat16.
        k, v: keys ``[batch, groups, N, D]`` and values ``[batch, groups, N, DV]``; groups divide heads (GQA).
        bias: added to the scores, of a shape that broadcasts to ``[batch, heads, M, N]``; minus infinity hides.
        lengths: int32 ``[batch]``, keys of each sequence; later ones are padding.
        mask: bool or uint8 ``[1 or batch, 1 or heads, ceil(M / block), ceil(N / block)]``, blocks that are seen.
        scale: of the scores; None is ``D ** -0.5``.
        causal: a query at position i sees keys up to i.
        window: a query sees fewer than so many keys to either side, itself included; 0 is all.
        offset: position of the first query; 0 counts queries and keys from the same start.
        block: queries and keys of a block of ``mask``: 16, 32, 64 or 128.

    Returns:
        ``[batch, heads, M, DV]`` in memory as ``[batch, M, heads, DV]``; zeros for a query that sees no key.

    Raises:
        UsageError: shapes, dtypes or options do not belong together.

    >>> one = torch.ones(1, 1, 2, 4)
    >>> reference(one, one, torch.tensor([[[[1.0], [3.0]]]]), causal=True).flatten().tolist()
    [1.0, 2.0]
    """
    check(q, k, v, bias, lengths, mask, window, block)
    group, scale = q.shape[1] // k.shape[1], q.shape[-1] ** -0.5 if scale is None else scale
    keys, values = (item.float().repeat_interleave(group, 1) for item in (k, v))
    scores = q.float() @ keys.transpose(-1, -2) * scale
    if bias is not None:
        scores = scores + bias.float()
    seen = visible(scores, lengths, mask, causal, window, offset, block)
    scores = scores.masked_fill(~seen, float("-inf"))
    weights = torch.softmax(scores, -1).masked_fill((scores == float("-inf")).all(-1, keepdim=True), 0.0)
    made = result(q, v)
    made.copy_((weights @ values).to(q.dtype))
    return made


def visible(
    scores: Tensor, lengths: Tensor | None, mask: Tensor | None, causal: bool, window: int, offset: int, block: int
) -> Tensor:
    """Which keys each query sees, bool ``[1 or batch, 1 or heads, M, N]``."""
    rows = torch.arange(scores.shape[-2], device=scores.device)[:, None] + offset
    keys = torch.arange(scores.shape[-1], device=scores.device)[None, :]
    seen = torch.ones_like(rows >= keys)
    if causal:
        seen = seen & (keys <= rows)
    if window:
        seen = seen & (keys > rows - window) & (keys < rows + window)
    seen = seen[None, None]
    if lengths is not None:
        seen = seen & (keys < lengths[:, None, None, None])
    if mask is not None:
        wide = mask.bool().repeat_interleave(block, -1).repeat_interleave(block, -2)
        seen = seen & wide[..., : scores.shape[-2], : scores.shape[-1]]
    return seen


def result(q: Tensor, v: Tensor) -> Tensor:
    """Memory of the result; tokens come before heads in it, so that the layer behind reads rows."""
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1]).transpose(1, 2)


def check(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, lengths: Tensor | None, mask: Tensor | None, window: int,
    block: int,
) -> None:  # fmt: skip
    """Raise UsageError unless the operands of `reference` belong together."""
    check_floats(q=q, k=k, v=v)
    if q.dim() != 4 or k.dim() != 4 or v.dim() != 4:
        raise UsageError(f"{q.dim()}, {k.dim()} and {v.dim()} dimensions", "[batch, heads, tokens, size] each")
    if max(q.shape[-1], v.shape[-1]) > WIDEST or min(q.shape[-1], v.shape[-1]) < 1:
        raise UsageError(f"heads of {q.shape[-1]} and {v.shape[-1]}", f"1 to {WIDEST}, or scaled_dot_product_attention")
    if q.shape[1] % k.shape[1]:
        raise UsageError(f"{q.shape[1]} heads of queries and {k.shape[1]} of keys", "a multiple")
    check_shape("keys", k, (q.shape[0], k.shape[1], k.shape[2], q.shape[3]))
    check_shape("values", v, (q.shape[0], k.shape[1], k.shape[2], v.shape[3]))
    check_shape("lengths", lengths, (q.shape[0],))
    if window < 0 or (mask is not None and block not in LISTS):
        raise UsageError(f"window {window} and block {block}", f"0 or more, and one of {LISTS}")
    wanted = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    _check_broadcast("bias", bias, wanted)
    _check_broadcast("mask", mask, (*wanted[:2], blocks(wanted[2], block), blocks(wanted[3], block)), leading=2)


def _check_broadcast(name: str, value: Tensor | None, wanted: tuple[int, ...], leading: int = 4) -> None:
    if value is None:
        return
    fits = value.dim() == 4 and all(
        got == size or (axis < leading and got == 1)
        for axis, (got, size) in enumerate(zip(value.shape, wanted, strict=True))
    )
    if not fits:
        raise UsageError(f"{name} of shape {tuple(value.shape)}", f"a shape that broadcasts to {tuple(wanted)}")


def pairs(queries: int, keys: int, causal: bool = False, window: int = 0, offset: int = 0) -> int:
    """How many pairs of a query and a key are seen.

    >>> pairs(4, 4), pairs(4, 4, causal=True), pairs(4, 4, window=2)
    (16, 10, 10)
    """
    ends = ((max(0, i - window + 1) if window else 0, i) for i in range(offset, offset + queries))
    last = (lambda i: i + 1) if causal else (lambda i: i + window if window else keys)
    return sum(max(0, min(keys, last(i)) - low) for low, i in ends)


def work(
    batch: int, heads: int, groups: int, queries: int, keys: int, size: int, dtype: torch.dtype, seen: float = 1.0,
    bias: int = 0,
) -> Work:  # fmt: skip
    """Operations of the two products and bytes of one call.

    Args:
        seen: share of all pairs of queries and keys, see `pairs`.
        bias: numbers in the bias.

    >>> work(1, 8, 8, 1024, 1024, 64, torch.float16).intensity
    512.0
    """
    moved = batch * size * (2 * heads * queries + 2 * groups * keys) + bias
    return Work(4.0 * batch * heads * queries * keys * size * seen, moved * dtype.itemsize)


def tiles(dtype: torch.dtype, size: int, at: int, bias: bool = False, block: int = 0) -> list[Tile]:
    """Tiles that fit, that of the tables first; ``block`` is that of a block mask, which decides alone."""
    if block:
        return [tile(8 if block * size > 64 * 64 else 4, 2, BLOCK_M=block, BLOCK_N=block)]
    table = WIDE if dtype == torch.float32 else CROWDED if bias or size != power(size) else PLAIN
    return [item for limit, item in table[at] if limit >= size]


def launch(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, lengths: Tensor | None = None,
    mask: Tensor | None = None, scale: float | None = None, causal: bool = False, window: int = 0, offset: int = 0,
    block: int = 64, exact: bool = False, cut: Tile | None = None,
) -> Tensor:  # fmt: skip
    """`reference` by the Triton kernel, on a GPU or under Triton's interpreter.

    Args:
        exact: multiply in float32 whatever the format is, as the interpreter needs for bfloat16.
        cut: the tile, that of the tables where None.
    """
    check(q, k, v, bias, lengths, mask, window, block)
    made = result(q, v)
    if empty(made) or empty(k):
        return made.zero_()
    q, k, v = (item if item.stride(-1) == 1 else item.contiguous() for item in (q, k, v))
    order, counts, listed = _lists(mask)
    spread = None if bias is None else bias.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    strides = [step for item in (q, k, v) for step in item.stride()[:3]]
    strides += [*((0, 0, 0, 0) if spread is None else spread.stride()), *made.stride()[:3]]
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    operands = (
        q, k, v, spread, lengths, order, counts, made, factor, q.shape[2], k.shape[2], q.shape[1],
        q.shape[1] // k.shape[1], offset, window, *listed, *strides,
    )  # fmt: skip
    wide, at = max(q.shape[-1], v.shape[-1]), capability(q)
    constants = _constants(q.shape[-1], v.shape[-1], causal, window > 0, mask, spread, lengths, exact)

    def go(cut: Tile) -> None:
        grid = (blocks(q.shape[2], cut.blocks["BLOCK_M"]) * q.shape[0] * q.shape[1],)
        run(wrap_triton(kernel), grid, cut, *operands, **constants)

    fits = tiles(q.dtype, wide, at, bias is not None, block if mask is not None else 0)
    key = (NAME, at, q.dtype, static(q.shape[2]), static(k.shape[2]), wide, causal, window, bias is None, mask is None)
    go(cut or best(key, fits[0], fits, go))
    return made


def _lists(mask: Tensor | None) -> tuple[Tensor | None, Tensor | None, tuple[int, int, int]]:
    """For each block of queries its blocks of keys, and how many; strides of the latter, 0 where it broadcasts."""
    if mask is None:
        return None, None, (0, 0, 0)
    seen = mask.to(torch.uint8)
    order = seen.argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    counts = seen.sum(-1, dtype=torch.int32)
    batch, head, row = counts.stride()
    return order, counts, (0 if mask.shape[0] == 1 else batch, 0 if mask.shape[1] == 1 else head, row)


def _constants(
    size: int, value_size: int, causal: bool, windowed: bool, mask: object, bias: object, lengths: object, exact: bool
) -> dict[str, object]:
    return {
        "D": size, "DV": value_size, "CAUSAL": causal, "WINDOWED": windowed, "LISTED": mask is not None,
        "BIAS": bias is not None, "RAGGED": lengths is not None, "EXACT": exact,
        "BLOCK_D": power(size, 16), "BLOCK_DV": power(value_size, 16),
    }  # fmt: skip


@torch.library.triton_op(NAME, mutates_args=())
def attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, lengths: Tensor | None = None,
    mask: Tensor | None = None, scale: float | None = None, causal: bool = False, window: int = 0, offset: int = 0,
    block: int = 64,
) -> Tensor:  # fmt: skip
    """`reference`, by the Triton kernel on a GPU."""
    if on_gpu(q):
        return launch(q, k, v, bias, lengths, mask, scale, causal, window, offset, block)
    return reference(q, k, v, bias, lengths, mask, scale, causal, window, offset, block)


@attention.register_fake
def _fake(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, lengths: Tensor | None = None,
    mask: Tensor | None = None, scale: float | None = None, causal: bool = False, window: int = 0, offset: int = 0,
    block: int = 64,
) -> Tensor:  # fmt: skip
    check(q, k, v, bias, lengths, mask, window, block)
    return result(q, v)


def variants(at: int) -> Iterator[Variant]:
    """What it is compiled for ahead of time."""
    half, whole = torch.bfloat16, torch.float32
    yield variant(at, half, 64)
    for size in (64, 128, 256):
        yield variant(at, half, size, causal=True)
    yield variant(at, torch.float16, 128, causal=True, window=1024)
    yield variant(at, half, 64, bias=True)
    yield variant(at, half, 128, listed=64)
    yield variant(at, half, 72, ragged=True)
    yield variant(at, whole, 64, causal=True)


def variant(
    at: int, dtype: torch.dtype, size: int, causal: bool = False, window: int = 0, bias: bool = False,
    listed: int = 0, ragged: bool = False,
) -> Variant:  # fmt: skip
    """One format for long sequences of 16 heads."""
    has = [name for name, given in (("bias", bias), ("lengths", ragged), ("causal", causal)) if given]
    has += [f"window {window}"] * bool(window) + [f"mask of {listed}"] * bool(listed)
    text = ", ".join([f"head {size}", str(dtype).removeprefix("torch."), *has])
    lists: list[Operand] = [torch.int32 if listed else None] * 2
    strides: list[Operand] = [4096 * 16 * size, size, 16 * size]
    bias_strides: list[Operand] = [0, 4096 * 4096, 4096, 1] if bias else [0, 0, 0, 0]
    operands: list[Operand] = [dtype, dtype, dtype, dtype if bias else None, torch.int32 if ragged else None, *lists]
    operands += [dtype, 0.125, 4096, 4096, 16, 1, 0, window, 0, 0, 1, *strides, *strides, *strides, *bias_strides]
    operands += strides
    mask, spread, lengths = (1 if given else None for given in (listed, bias, ragged))
    constants = _constants(size, size, causal, window > 0, mask, spread, lengths, False)
    return Variant("attention", text, kernel, operands, constants, tiles(dtype, size, at, bias, listed)[0])
