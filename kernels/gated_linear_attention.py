"""`tersor::gated_linear_attention`: attention without softmax whose memory decays, token by token or chunk by chunk.

Yang et al., Gated Linear Attention (arXiv:2312.06635), with a gate for each key channel, or one for each head as in
RetNet (arXiv:2307.08621) and Mamba-2 (arXiv:2405.21060). A program keeps a part of one head's memory in registers and
walks over chunks of tokens; within a chunk only differences of decays are exponentiated, which are never positive, so
that no gate overflows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tersor.cost.roofline import Work
from tersor.errors import UsageError
from tersor.kernels.ahead_of_time import Operand, Variant
from tersor.kernels.autotune import best
from tersor.kernels.language import (
    blocks,
    capability,
    check_floats,
    check_shape,
    empty,
    jit,
    on_gpu,
    power,
    run,
    static,
    tl,
    wrap_triton,
)
from tersor.kernels.tile import Table, Tile, chosen, tile

NAME = "tersor::gated_linear_attention"
WIDEST = 128
"""Size of keys up to which the memory and a chunk fit in registers; 256 spills on sm_80 and sm_90."""

CHANNELS: Table = {
    at: [
        (64, tile(4, 1, BLOCK_TOKENS=16, BLOCK_VALUE=64)),
        (WIDEST, tile(8, 1, BLOCK_TOKENS=16, BLOCK_VALUE=32)),
    ]
    for at in (80, 90)
}
"""By size of keys, for 16-bit formats and a gate for each channel."""
HEADS: Table = {
    at: [
        (64, tile(8, 1, BLOCK_TOKENS=32, BLOCK_VALUE=64)),
        (WIDEST, tile(8, 1, BLOCK_TOKENS=32, BLOCK_VALUE=32)),
    ]
    for at in (80, 90)
}
"""The same for one gate for each head."""
WIDE: Table = {
    at: [
        (64, tile(8, 1, BLOCK_TOKENS=16, BLOCK_VALUE=32)),
        (WIDEST, tile(8, 1, BLOCK_TOKENS=16, BLOCK_VALUE=16)),
    ]
    for at in (80, 90)
}
"""The same for float32 and either kind of gate."""


def reference(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor | None = None, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """``memory = exp(gate) * memory + k v^T`` and ``q^T memory`` for each token in turn, in float32.

    Args:
        q, k: ``[batch, heads, tokens, K]``, float32, float16 or bfloat16.
        v: ``[batch, heads, tokens, V]``.
        gate: logarithms of decays, 0 or less, float32 or the dtype of q: ``[batch, heads, tokens, K]``, or without K.
        state: float32 ``[batch, heads, K, V]``, the memory before the first token; None is zeros.
        scale: of the queries; None is ``K ** -0.5``.

    Returns:
        ``[batch, heads, tokens, V]`` in the dtype of q, and the memory behind the last token.

    Raises:
        UsageError: shapes or dtypes do not belong together.

    >>> one = torch.ones(1, 1, 3, 1)
    >>> reference(one, one, one, torch.full((1, 1, 3), 0.5).log())[0].flatten().tolist()
    [1.0, 1.5, 1.75]
    """
    check(q, k, v, gate, state)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    decay = gate.float().exp()
    decay = decay[..., None].expand(q.shape) if gate.dim() == 3 else decay
    memory, made = _start(q, v, state), []
    for token in range(q.shape[2]):
        added = k[:, :, token].float()[..., None] * v[:, :, token].float()[..., None, :]
        memory = memory * decay[:, :, token][..., None] + added
        made.append((scale * q[:, :, token].float()[..., None, :] @ memory).to(q.dtype))
    return (torch.cat(made, 2) if made else v.new_empty(v.shape)), memory


def _start(q: Tensor, v: Tensor, state: Tensor | None) -> Tensor:
    shape = (*q.shape[:2], q.shape[-1], v.shape[-1])
    if state is None:
        return q.new_zeros(shape, dtype=torch.float32)
    return state.clone(memory_format=torch.contiguous_format)


def check(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor | None) -> None:
    """Raise UsageError unless the operands of `reference` belong together."""
    dtype = check_floats(q=q, k=k, v=v)
    if q.dim() != 4 or v.dim() != 4 or not 1 <= q.shape[-1] <= WIDEST:
        raise UsageError(f"q {tuple(q.shape)}, v {tuple(v.shape)}", f"[batch, heads, tokens, 1 to {WIDEST}]")
    check_shape("k", k, q.shape)
    check_shape("v", v, (*q.shape[:3], v.shape[3]))
    check_shape("gate", gate, q.shape[: gate.dim()])
    check_shape("state", state, (*q.shape[:2], q.shape[3], v.shape[3]))
    if gate.dim() not in (3, 4) or gate.dtype not in (dtype, torch.float32):
        raise UsageError(f"gate of {gate.dim()} dimensions and {gate.dtype}", f"3 or 4, float32 or {dtype}")
    if state is not None and state.dtype != torch.float32:
        raise UsageError(f"state of {state.dtype}", "float32")


def work(
    batch: int, heads: int, tokens: int, keys: int, values: int, dtype: torch.dtype, per_channel: bool = True
) -> Work:
    """Operations of the recurrence, five for each number of the memory and token, and bytes of one call.

    >>> work(1, 1, 2, 16, 16, torch.float16).operations
    2560.0
    """
    count = batch * heads * tokens
    gates = keys if per_channel else 1
    moved = count * (2 * keys + 2 * values + gates) * dtype.itemsize + 8 * batch * heads * keys * values
    return Work(5.0 * count * keys * values, moved)


@jit
def _within(  # type: ignore[no-untyped-def]
    out, query, decay, k_at, v_at, gate_at, start, tokens, kt, vt, gt, keys, inside_value,
    BLOCK_TOKENS: tl.constexpr, BLOCK_KEY: tl.constexpr,
):  # fmt: skip
    """Adds what each token of a chunk gets from the earlier ones and itself, with a gate for each channel."""
    place, channel = tl.arange(0, BLOCK_TOKENS), tl.arange(0, BLOCK_KEY)
    first, before = tl.full([1], start, tl.int64), tl.zeros([BLOCK_KEY], tl.float32)
    gate_row, key_row, value_row = gate_at + first * gt + channel, k_at + first * kt + channel, v_at + first * vt
    for j in range(tl.minimum(BLOCK_TOKENS, tokens - start)):
        before += tl.load(gate_row + j * gt, mask=channel < keys, other=0.0).to(tl.float32)
        key = tl.load(key_row + j * kt, mask=channel < keys, other=0.0).to(tl.float32)
        value = tl.load(value_row + j * vt, mask=inside_value, other=0.0).to(tl.float32)
        faded = tl.exp(tl.minimum(decay - before[None, :], 0.0))
        weight = tl.sum(query * key[None, :] * faded, 1)
        out += tl.where(place >= j, weight, 0.0)[:, None] * value[None, :]
    return out


@jit
def kernel(  # type: ignore[no-untyped-def]
    q, k, v, gate, state, made, memory_after, scale, heads, tokens, keys, values,
    qb, qh, qt, kb, kh, kt, vb, vh, vt, gb, gh, gt,
    CHANNELS: tl.constexpr, STATE: tl.constexpr, EXACT: tl.constexpr, BLOCK_KEY: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr, BLOCK_VALUE: tl.constexpr,
):  # fmt: skip
    """A part of the values of one head, all tokens; CHANNELS says that each key channel has its gate.

    Products are in TF32, or in float32 where EXACT.
    """
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    count = tl.cdiv(values, BLOCK_VALUE)
    own = (tl.program_id(0) // count).to(tl.int64)
    batch, head = own // heads, own % heads
    channel, place = tl.arange(0, BLOCK_KEY), tl.arange(0, BLOCK_TOKENS)
    column = tl.program_id(0) % count * BLOCK_VALUE + tl.arange(0, BLOCK_VALUE)
    q_at, k_at = q + batch * qb + head * qh, k + batch * kb + head * kh
    v_at, gate_at = v + batch * vb + head * vh + column, gate + batch * gb + head * gh
    state_at = own * keys * values + channel[:, None] * values + column[None, :]
    held = (channel[:, None] < keys) & (column[None, :] < values)
    memory = tl.zeros([BLOCK_KEY, BLOCK_VALUE], tl.float32)
    if STATE:
        memory = tl.load(state + state_at, mask=held, other=0.0)
    for start in range(0, tokens, BLOCK_TOKENS):
        token = (start + place).to(tl.int64)
        there = token[:, None] < tokens
        inside = there & (channel[None, :] < keys)
        query = scale * tl.load(q_at + token[:, None] * qt + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        key = tl.load(k_at + token[:, None] * kt + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        there = there & (column[None, :] < values)
        value = tl.load(v_at[None, :] + token[:, None] * vt, mask=there, other=0.0).to(tl.float32)
        if CHANNELS:
            step = tl.load(gate_at + token[:, None] * gt + channel[None, :], mask=inside, other=0.0).to(tl.float32)
            decay, whole = tl.cumsum(step, 0), tl.sum(step, 0)
            out = tl.dot(query * tl.exp(decay), memory, input_precision=precision)
            out = _within(
                out, query, decay, k_at, v_at, gate_at, start, tokens, kt, vt, gt, keys, column < values,
                BLOCK_TOKENS, BLOCK_KEY,
            )  # fmt: skip
            key *= tl.exp(tl.minimum(whole[None, :] - decay, 0.0))
            memory *= tl.exp(whole)[:, None]
        else:
            step = tl.load(gate_at + token * gt, mask=token < tokens, other=0.0).to(tl.float32)
            decay, whole = tl.cumsum(step, 0), tl.sum(step, 0)
            out = tl.dot(query * tl.exp(decay)[:, None], memory, input_precision=precision)
            weight = tl.dot(query, tl.trans(key), input_precision=precision)
            weight *= tl.exp(tl.minimum(decay[:, None] - decay[None, :], 0.0))
            weight = tl.where(place[:, None] >= place[None, :], weight, 0.0)
            out = tl.dot(weight, value, out, input_precision=precision)
            key *= tl.exp(tl.minimum(whole - decay, 0.0))[:, None]
            memory *= tl.exp(whole)
        memory = tl.dot(tl.trans(key), value, memory, input_precision=precision)
        made_at = made + (own * tokens + token[:, None]) * values + column[None, :]
        tl.store(made_at, out.to(made.dtype.element_ty), mask=there)
    tl.store(memory_after + state_at, memory, mask=held)


def tables(dtype: torch.dtype, per_channel: bool) -> Table:
    """The table for a format and a kind of gate."""
    if dtype == torch.float32:
        return WIDE
    return CHANNELS if per_channel else HEADS


def launch(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor | None = None, scale: float | None = None,
    exact: bool = False, cut: Tile | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`reference` by the Triton kernel, on a GPU or under Triton's interpreter.

    Args:
        exact: multiply in float32 instead of TF32; float32 queries are in any case.
    """
    check(q, k, v, gate, state)
    made = q.new_empty(v.shape)
    memory = q.new_empty(*q.shape[:2], q.shape[-1], v.shape[-1], dtype=torch.float32)
    if empty(made):
        memory.copy_(_start(q, v, state))
        return made, memory
    q, k, v = (item if item.stride(-1) == 1 else item.contiguous() for item in (q, k, v))
    gate = gate.contiguous()
    batch, heads, tokens, size = q.shape
    strides = [step for item in (q, k, v, gate) for step in item.stride()[:3]]
    given = None if state is None else state.contiguous()
    operands = (
        q, k, v, gate, given, made, memory, size**-0.5 if scale is None else scale, heads, tokens, size, v.shape[-1],
        *strides,
    )  # fmt: skip
    constants = {
        "CHANNELS": gate.dim() == 4, "STATE": state is not None, "EXACT": exact or q.dtype == torch.float32,
        "BLOCK_KEY": power(size, 16),
    }  # fmt: skip

    def go(cut: Tile) -> None:
        grid = (blocks(v.shape[-1], cut.blocks["BLOCK_VALUE"]) * batch * heads,)
        run(wrap_triton(kernel), grid, cut, *operands, **constants)

    at, table = capability(q), tables(q.dtype, gate.dim() == 4)
    key = (NAME, at, q.dtype, static(tokens), size, v.shape[-1], gate.dim())
    go(cut or best(key, chosen(table, at, size), [item for limit, item in table[at] if limit >= size], go))
    return made, memory


@torch.library.triton_op(NAME, mutates_args=())
def gated_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor | None = None, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """`reference`, by the Triton kernel on a GPU."""
    return launch(q, k, v, gate, state, scale) if on_gpu(q) else reference(q, k, v, gate, state, scale)


@gated_linear_attention.register_fake
def _fake(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor | None = None, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    check(q, k, v, gate, state)
    return q.new_empty(v.shape), q.new_empty(*q.shape[:2], q.shape[-1], v.shape[-1], dtype=torch.float32)


def variants(at: int) -> Iterator[Variant]:
    """What it is compiled for ahead of time."""
    for size, dtype, channels in (
        (64, torch.bfloat16, True), (128, torch.bfloat16, True), (64, torch.bfloat16, False),
        (128, torch.float16, False), (64, torch.float32, True), (128, torch.float32, False),
    ):  # fmt: skip
        text = f"keys and values of {size}, {str(dtype).removeprefix('torch.')}, gates of "
        text += "channels" if channels else "heads"
        cut = chosen(tables(dtype, channels), at, size)
        strides: list[Operand] = [4096 * 16 * size, size, 16 * size]
        gates: list[Operand] = strides if channels else [4096 * 16, 4096, 1]
        operands: list[Operand] = [dtype, dtype, dtype, torch.float32, torch.float32, dtype, torch.float32]
        operands += [0.125, 16, 4096, size, size, *strides, *strides, *strides, *gates]
        constants = {
            "CHANNELS": channels, "STATE": True, "EXACT": dtype == torch.float32, "BLOCK_KEY": power(size, 16),
        }  # fmt: skip
        yield Variant("gated_linear_attention", text, kernel, operands, constants, cut)
