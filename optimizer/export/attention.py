"""Scaled-dot-product attention as ONNX: one Attention node, or the products and softmax it stands for."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch

from tersor.export.record import Value, constant, ints, op, op23, scalar


def attention_node(
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """One Attention node of opset 23 where the operands have four axes; the plain form otherwise.

    A Boolean mask takes the plain form as well: what a row without any True gives is not fixed by the standard.
    """
    four = all(len(operand.shape) == 4 for operand in (query, key, value))
    if not four or (attn_mask is not None and attn_mask.dtype == ir.DataType.BOOL):
        return attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    attributes = {} if scale is None else {"scale": scale}
    return op23.Attention(query, key, value, attn_mask, is_causal=int(is_causal), **attributes)[0]


def attention(
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """``softmax(query @ key.T * scale + mask) @ value``, in six nodes beside those of the mask, which layers share.

    Shapes: query [..., L, E], key [..., S, E], value [..., S, V]. Grouped queries are multiplied by broadcasting over
    an axis of their own, so that no key or value is copied.
    """
    rank, groups = len(query.shape), _groups(query, key) if enable_gqa else 1
    wanted = query
    if groups > 1:
        query, key, value = _grouped(query, groups), _with_axis(key), _with_axis(value)
        if attn_mask is not None and len(attn_mask.shape) > 2:
            attn_mask = _with_axis(attn_mask)
        rank += 1
    swapped = op.Transpose(key, perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = op.MatMul(op.Mul(query, _scale(scale, wanted)), swapped)
    seen = None
    if attn_mask is not None and attn_mask.dtype == ir.DataType.BOOL:
        attn_mask, seen = _added(attn_mask, query)
    result = op.MatMul(_softmax(scores, query, key, attn_mask, is_causal), value)
    if seen is not None:
        if query.shape[:-2] == value.shape[:-2]:
            result.shape = ir.Shape([*query.shape[:-1], value.shape[-1]])
        result = op.Where(seen, result, scalar(0.0, query))
    return _ungrouped(result, wanted) if groups > 1 else result


def _softmax(scores: Value, query: Value, key: Value, mask: Value | None, is_causal: bool) -> Value:
    if is_causal:
        return op.Softmax(op.Where(_triangle(query, key), scores, scalar(-math.inf, query)), axis=-1)
    if mask is None:
        return op.Softmax(scores, axis=-1)
    return op.Softmax(op.Add(scores, mask), axis=-1)


def _added(mask: Value, query: Value) -> tuple[Value, Value]:
    """A Boolean mask as what ATen adds to scores, and which rows see anything: those that do not are zeros in ATen.

    The latter are given finite scores, and zeros behind the second product, which is smaller than the weights.
    """
    any_seen = op.ReduceMax(op.Cast(mask, to=ir.DataType.FLOAT), ints(-1), keepdims=1)
    seen = op.Cast(any_seen, to=ir.DataType.BOOL)
    bias = op.Where(op.Or(mask, op.Not(seen)), scalar(0.0, query), scalar(-math.inf, query))
    return bias, seen


def _triangle(query: Value, key: Value) -> Value:
    """Boolean lower triangle [L, S]: no position sees a later one."""
    length, seen = query.shape[-2], key.shape[-2]
    if isinstance(length, int) and isinstance(seen, int) and length * seen <= 2**20:
        return constant(torch.ones(length, seen, dtype=torch.bool).tril())
    sizes = op.Concat(op.Shape(query, start=-2, end=-1), op.Shape(key, start=-2, end=-1), axis=0)
    return op.Trilu(op.ConstantOfShape(sizes, value=ir.tensor(torch.tensor([True]))), upper=0)


def _scale(scale: float | None, query: Value) -> Value:
    width = query.shape[-1]
    if scale is not None or isinstance(width, int):
        return scalar(1 / math.sqrt(width) if scale is None else scale, query)
    size = op.Cast(op.Shape(query, start=-1), to=query.dtype)
    return op.Reciprocal(op.Sqrt(size))


def _groups(query: Value, key: Value) -> int:
    heads, shared = query.shape[-3], key.shape[-3]
    if not isinstance(heads, int) or not isinstance(shared, int):
        raise NotImplementedError("grouped-query attention with a dynamic number of heads")
    return heads // shared


def _grouped(query: Value, groups: int) -> Value:
    """[..., H, L, E] to [..., H/groups, groups, L, E]."""
    rank, heads = len(query.shape), query.shape[-3]
    sizes = [*_shape_parts(query, 0, rank - 3), ints(heads // groups, groups), *_shape_parts(query, rank - 2, rank)]
    made = op.Reshape(query, op.Concat(*sizes, axis=0))
    made.shape = ir.Shape([*query.shape[: rank - 3], heads // groups, groups, *query.shape[rank - 2 :]])
    made.dtype = query.dtype
    return made


def _ungrouped(result: Value, query: Value) -> Value:
    rank = len(query.shape)
    sizes = [*_shape_parts(query, 0, rank - 1), ints(-1)]
    return op.Reshape(result, op.Concat(*sizes, axis=0))


def _shape_parts(value: Value, start: int, end: int) -> list[Value]:
    return [op.Shape(value, start=start, end=end)] if end > start else []


def _with_axis(value: Value) -> Value:
    """[..., H, S, E] to [..., H, 1, S, E]."""
    rank = len(value.shape)
    made = op.Unsqueeze(value, ints(rank - 2))
    made.shape = ir.Shape([*value.shape[: rank - 2], 1, *value.shape[rank - 2 :]])
    made.dtype = value.dtype
    return made
