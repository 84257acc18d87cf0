"""Linear attention: a recurrence over tokens with a matrix as state (operator LinearAttention, opset 27)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tersor.capture.onnx.operators.precision import as_type
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Opaque

# The recurrence is unrolled: longer sequences would make graphs of many thousand nodes.
_LONGEST = 64


def _heads(x: Tensor, count: int) -> Tensor:
    return as_type(x, torch.float32).unflatten(-1, (count, -1)).transpose(1, 2)


def _rate(beta: Tensor) -> Tensor:
    return as_type(beta, torch.float32).unsqueeze(-1).transpose(1, 2)


@operator("LinearAttention")
def _linear_attention(
    node: Node,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    tokens = query.shape[1]
    if not isinstance(tokens, int) or tokens > _LONGEST:
        raise Opaque(f"linear attention over {tokens} tokens")
    rule, heads, shared = node.get("update_rule", "gated_delta"), node.get("q_num_heads"), node.get("kv_num_heads")
    q, k, v = _heads(query, heads), _heads(key, shared), _heads(value, shared)
    gate = torch.exp(_heads(decay, shared)) if rule.startswith("gated") and decay is not None else None
    rate = (
        as_type(beta, torch.float32).unsqueeze(-1).transpose(1, 2)
        if rule.endswith("delta") and beta is not None
        else None
    )
    shape = (k.shape[0], shared, k.shape[-1], v.shape[-1])
    state = k.new_zeros(shape) if past is None else as_type(past, torch.float32)
    outputs = []
    for t in range(tokens):
        state = _step(state, k[:, :, t], v[:, :, t], None if gate is None else gate[:, :, t],
                      None if rate is None else rate[:, :, t])  # fmt: skip
        read = state if heads == shared else state.repeat_interleave(heads // shared, 1)
        outputs.append(torch.matmul(q[:, :, t].unsqueeze(-2), read).squeeze(-2))
    scale = node.get("scale", 0.0) or 1 / math.sqrt(k.shape[-1])
    y = torch.stack(outputs, 1) * scale
    return as_type(y.flatten(2), query.dtype), as_type(state, query.dtype if past is None else past.dtype)


def _step(state: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, rate: Tensor | None) -> Tensor:
    if gate is not None:
        state = state * gate.unsqueeze(-1)
    if rate is not None:
        v = rate * (v - torch.matmul(k.unsqueeze(-2), state).squeeze(-2))
    return state + k.unsqueeze(-1) * v.unsqueeze(-2)
