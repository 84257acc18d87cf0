"""Attention over queries, keys and values, and rotary position embeddings."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from tersor.capture.onnx.dtypes import torch_dtype
from tersor.capture.onnx.operators.precision import as_type
from tersor.capture.onnx.operators.scalars import wanted
from tersor.capture.onnx.registry import Node, operator

_WIDTH = {torch.float16: 0, torch.bfloat16: 0, torch.float32: 1, torch.float64: 2}


@operator("Attention")
def _attention(
    node: Node,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    packed = q.dim() == 3
    if packed:
        q = _heads(q, node.get("q_num_heads"))
        k, v = _heads(k, node.get("kv_num_heads")), _heads(v, node.get("kv_num_heads"))
    past: Any = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    scores = None
    if _whole(node, q):
        y = _fused(node, q, k, v, mask, past, lengths)
    else:
        y, scores = _explicit(node, q, k, v, _mask(node, q, k, mask, past, lengths))
    y = y.transpose(1, 2).flatten(2) if packed else y
    return y, k, v, scores


def _heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def _whole(node: Node, q: Tensor) -> bool:
    """Whether torch's one operator computes all that is asked for, in at least the wanted precision."""
    if wanted(node, 3) or node.get("softcap", 0.0):
        return False
    precision = node.get("softmax_precision")
    return precision is None or _WIDTH[torch_dtype(precision)] <= max(_WIDTH[q.dtype], 1)


def _fused(
    node: Node, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, past: Any, lengths: Tensor | None
) -> Tensor:
    windowed = node.get("left_window_size", -1) >= 0 or node.get("right_window_size", -1) >= 0
    plain = mask is None and lengths is None and isinstance(past, int) and past == 0 and not windowed
    causal = plain and bool(node.get("is_causal", 0))
    bias = None if causal else _mask(node, q, k, mask, past, lengths)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, bias, is_causal=causal, scale=node.get("scale"), enable_gqa=grouped)


def _mask(node: Node, q: Tensor, k: Tensor, mask: Tensor | None, past: Any, lengths: Tensor | None) -> Tensor | None:
    """All restrictions in one tensor: boolean (True: attend) or added to the scores; None where there are none."""
    allowed = _allowed(node, q, k, past, lengths)
    if mask is None:
        return allowed
    missing = k.shape[2] - mask.shape[-1]
    boolean = mask.dtype == torch.bool
    mask = mask if boolean else as_type(mask, q.dtype)
    if not statically_known_true(missing == 0):
        mask = F.pad(mask, (0, missing), value=False if boolean else -math.inf)
    if allowed is None:
        return mask
    return mask & allowed if boolean else torch.where(allowed, mask, -math.inf)


def _allowed(node: Node, q: Tensor, k: Tensor, past: Any, lengths: Tensor | None) -> Tensor | None:
    key = torch.arange(k.shape[2], device=q.device)
    query = torch.arange(q.shape[2], device=q.device).unsqueeze(-1) + past
    if lengths is not None:
        counts = lengths.reshape(-1, 1, 1, 1)
        query = query + (counts - q.shape[2])
    left, right = node.get("left_window_size", -1), node.get("right_window_size", -1)
    rules = [] if lengths is None else [key < counts]
    if node.get("is_causal", 0):
        rules.append(key <= query)
    if left >= 0:
        rules.append(key >= query - left)
    if right >= 0:
        rules.append(key <= query + right)
    allowed = rules[0] if rules else None
    for rule in rules[1:]:
        allowed = allowed & rule if allowed is not None else rule
    return allowed


def _explicit(node: Node, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The specification's steps one by one; also returns what ``qk_matmul_output_mode`` selects."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    given = node.get("scale")
    root = math.sqrt(1 / math.sqrt(q.shape[-1]) if given is None else given)
    steps = [torch.matmul(q * root, (k * root).transpose(-2, -1))]
    cap = node.get("softcap", 0.0)
    steps.append(torch.tanh(steps[0] / cap) * cap if cap > 0 else steps[0])
    if mask is not None and mask.dtype == torch.bool:
        steps.append(torch.where(mask, steps[1], -math.inf))
    else:
        steps.append(steps[1] if mask is None else steps[1] + mask)
    precision = node.get("softmax_precision")
    dtype = q.dtype if precision is None else torch_dtype(precision)
    probability = as_type(torch.softmax(as_type(steps[2], dtype), -1), q.dtype)
    if mask is not None:
        # A query that may attend to nothing gives zeros.
        nothing = ~mask if mask.dtype == torch.bool else mask == -math.inf
        probability = torch.where(nothing.all(-1, keepdim=True), torch.zeros_like(probability), probability)
    steps.append(probability)
    return torch.matmul(probability, v), steps[node.get("qk_matmul_output_mode", 0)]


@operator("RotaryEmbedding", since=23)
def _rotary_embedding(node: Node, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
    packed = x.dim() == 3
    heads = _heads(x, node.get("num_heads")) if packed else x
    if positions is not None:
        cos, sin = F.embedding(positions, cos), F.embedding(positions, sin)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    size = node.get("rotary_embedding_dim", 0) or heads.shape[-1]
    rotated = _rotate(heads[..., :size], cos, sin, interleaved=bool(node.get("interleaved", 0)))
    if size != heads.shape[-1]:
        rotated = torch.cat([rotated, heads[..., size:]], -1)
    return rotated.transpose(1, 2).flatten(2) if packed else rotated


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    if interleaved:
        first, second = x[..., 0::2], x[..., 1::2]
    else:
        first, second = x.chunk(2, -1)
    parts = (first * cos - second * sin, first * sin + second * cos)
    return torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
