"""Operands of every kernel at small odd sizes, for references, conformance tests and the interpreter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tersor.kernels.int4_matmul import pack

Given = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional arguments and options of an operator."""

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class Draw:
    """Random tensors from one seed."""

    def __init__(self, seed: int = 0) -> None:
        self.source = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=self.source) * scale).to(dtype)

    def whole(self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.randint(low, high, shape, generator=self.source).to(dtype)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.source)

    def orders(self, rows: int, count: int) -> Tensor:
        return torch.stack([torch.randperm(count, generator=self.source) for _ in range(rows)])


def attention(
    dtype: torch.dtype, batch: int, heads: int, groups: int, queries: int, keys: int, size: int, values: int = 0,
    bias: str = "", lengths: bool = False, block: int = 0, **options: Any,
) -> Given:  # fmt: skip
    """``bias`` is its shape as letters of what is not broadcast, such as "hmn"; a part of it hides."""
    draw = Draw(queries + keys)
    q = draw.normal(batch, queries, heads, size, dtype=dtype).transpose(1, 2)  # as a layer splits its heads
    k = draw.normal(batch, groups, keys, size, dtype=dtype)
    v = draw.normal(batch, groups, keys, values or size, dtype=dtype)
    if bias:
        full = {"b": batch, "h": heads, "m": queries, "n": keys}
        shape = [full[name] if name in bias else 1 for name in "bhm"] + [keys]
        made = draw.normal(*shape)
        options["bias"] = made.masked_fill(draw.uniform(*shape) < 0.2, float("-inf")).to(dtype)
    if lengths:
        options["lengths"] = draw.whole(0, keys + 1, batch, dtype=torch.int32)
    if block:
        shape = [1, heads, -(-queries // block), -(-keys // block)]
        options["mask"], options["block"] = draw.uniform(*shape) < 0.5, block
    return (q, k, v), options


def norm(dtype: torch.dtype, *shape: int, residual: bool = False, bias: bool = False, **options: Any) -> Given:
    draw = Draw(sum(shape))
    options["weight"] = draw.normal(shape[-1], dtype=dtype)
    if residual:
        options["residual"] = draw.normal(*shape, dtype=dtype)
    if bias:
        options["bias"] = draw.normal(shape[-1], dtype=dtype)
    return (3 + draw.normal(*shape, dtype=dtype),), options


def glu(dtype: torch.dtype, *shape: int, activation: str = "silu", halves: bool = False) -> Given:
    both = Draw(sum(shape)).normal(*shape[:-1], 2 * shape[-1], dtype=dtype)
    first, second = both.chunk(2, -1)
    return (first, second) if halves else (first.contiguous(), second.contiguous()), {"activation": activation}


def rotary(
    dtype: torch.dtype, batch: int, heads: int, tokens: int, size: int, pairs: int, *, own: bool = False,
    neighbours: bool = False, table: torch.dtype = torch.float32,
) -> Given:  # fmt: skip
    draw = Draw(tokens + size)
    angle = 6.3 * draw.uniform(batch if own else 1, tokens, pairs)
    x = draw.normal(batch, tokens, heads, size, dtype=dtype).transpose(1, 2)
    return (x, angle.cos().to(table), angle.sin().to(table)), {"neighbours": neighbours}


def scaled_matmul(
    kind: torch.dtype, rows: int, inputs: int, outputs: int, *, per_row: bool = True, zero: bool = False,
    bias: bool = True, activation: str = "none", dtype: torch.dtype = torch.float32,
) -> Given:  # fmt: skip
    draw = Draw(rows + inputs + outputs)
    if kind == torch.int8:
        x, weight = (draw.whole(-128, 128, count, inputs, dtype=kind) for count in (rows, outputs))
    else:
        x, weight = (draw.normal(count, inputs).to(kind) for count in (rows, outputs))
    each = rows if per_row else 1
    options: dict[str, Any] = {"activation": activation, "dtype": dtype}
    if zero:
        options["zero"] = draw.whole(-100, 100, each, dtype=torch.int32)
        options["sums"] = weight.sum(1, dtype=torch.int32)
    if bias:
        options["bias"] = draw.normal(outputs, dtype=dtype)
    step = 0.01 / max(inputs, 1) ** 0.5
    return (x, weight, step * (1 + draw.uniform(each)), step * (1 + draw.uniform(outputs))), options


def int4_matmul(
    dtype: torch.dtype, rows: int, inputs: int, outputs: int, group: int, zero: bool = False, bias: bool = False
) -> Given:
    draw = Draw(rows + inputs + outputs)
    packed = pack(draw.whole(0, 16, outputs, inputs))
    shape = (outputs, inputs // group)
    options: dict[str, Any] = {}
    if zero:
        options["zero"] = draw.whole(0, 16, *shape, dtype=torch.uint8)
    if bias:
        options["bias"] = draw.normal(outputs, dtype=dtype)
    scale = ((0.5 + draw.uniform(*shape)) / 8).to(dtype)
    return (draw.normal(rows, inputs, dtype=dtype), packed, scale), options


def gated_linear_attention(
    dtype: torch.dtype, batch: int, heads: int, tokens: int, keys: int, values: int, *, per_channel: bool = True,
    state: bool = False, strong: float = 1.0,
) -> Given:  # fmt: skip
    draw = Draw(tokens + keys)
    shape = (batch, heads, tokens)
    q, k = (draw.normal(*shape, keys, dtype=dtype) for _ in range(2))
    v = draw.normal(batch, tokens, heads, values, dtype=dtype).transpose(1, 2)
    gate = -strong * draw.uniform(*((*shape, keys) if per_channel else shape))
    return (q, k, v, gate), {"state": draw.normal(batch, heads, keys, values)} if state else {}


def token_match(
    dtype: torch.dtype, batch: int, first: int, second: int, channels: int, *, cosine: bool = True
) -> Given:
    draw = Draw(first + second)
    both = draw.normal(batch, first + second, channels, dtype=dtype)
    return (both[:, :first], both[:, first:]), {"cosine": cosine}


def token_merge(dtype: torch.dtype, batch: int, kept: int, merged: int, channels: int) -> Given:
    draw = Draw(kept + merged)
    tokens = kept + merged
    order = draw.orders(batch, tokens) if batch else torch.zeros(0, tokens, dtype=torch.int64)
    into = draw.whole(0, max(kept, 1), batch, merged)
    size = 1.0 + draw.whole(0, 4, batch, tokens).float()
    x = draw.normal(batch, tokens, channels, dtype=dtype)
    return (x, size, order[:, :kept].contiguous(), order[:, kept:].contiguous(), into), {}
