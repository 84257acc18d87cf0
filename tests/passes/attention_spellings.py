"""Attention as the field's code spells it, each a function of its inputs: what `recognise-attention` must see."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

B, H, L, S, E = 2, 4, 6, 6, 8
HEADS = (B, H, L, E)
FLAT = (B * H, L, E)
TOKENS = (B, L, H * E)


@dataclass(frozen=True)
class Spelling:
    """One way to write attention.

    Attributes:
        function: of the inputs.
        shapes: of the floating-point inputs, which come first.
        others: further inputs of other dtypes.
        refusal: for what the operator cannot express, a part of the reason that is given.
        refusal_half: the same, where that is so in float16 only.
    """

    name: str
    function: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...] = (HEADS, HEADS, HEADS)
    others: tuple[Tensor, ...] = ()
    refusal: str = ""
    refusal_half: str = ""


SPELLINGS: dict[str, Spelling] = {}


def spelled(*shapes: tuple[int, ...], others: tuple[Tensor, ...] = (), **rest: Any) -> Callable[..., Any]:
    """Register a function under its name."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        given = shapes or (HEADS, HEADS, HEADS)
        SPELLINGS[function.__name__] = Spelling(function.__name__, function, given, others, **rest)
        return function

    return register


class Spelled(nn.Module):
    """A spelling as a module."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__()
        self.function = spelling.function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def inputs_of(spelling: Spelling, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Inputs, the same at each call."""
    generator = torch.Generator().manual_seed(7)
    made = [torch.randn(shape, generator=generator).to(dtype) for shape in spelling.shapes]
    return (*made, *spelling.others)


def tril(rows: int = L, columns: int = S) -> Tensor:
    return torch.ones(rows, columns, dtype=torch.bool).tril()


KEPT = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
PADDED = KEPT == 0


@spelled()
def scale_after(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(E), dim=-1) @ v


@spelled()
def scale_multiplied(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.mT) * E**-0.5).softmax(-1) @ v


@spelled()
def scale_before(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q * E**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v


@spelled()
def scale_of_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.matmul(q, (k / E**0.5).transpose(2, 3)).softmax(3).matmul(v)


@spelled()
def scale_split(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scale = E**-0.25
    return F.softmax((q * scale) @ (k * scale).transpose(-1, -2), dim=-1) @ v


@spelled()
def scale_absent(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q @ k.transpose(-1, -2), dim=-1) @ v


@spelled()
def scale_in_a_tensor(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q @ k.transpose(-1, -2) / torch.sqrt(torch.tensor(E, dtype=q.dtype)), dim=-1) @ v


@spelled((B, L, H, E), (B, S, H, E), (B, S, H, E))
def einsum_of_tokens(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).mul(E**-0.5).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v)


@spelled()
def einsum_with_ellipsis(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("...qk,...kd->...qd", torch.einsum("...qd,...kd->...qk", q, k).softmax(-1), v)


@spelled((B, L, H, E), (B, S, H, E), (B, S, H, E))
def einsum_with_heads_behind(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("bqhd,bkhd->bqkh", q, k).softmax(2)
    return torch.einsum("bqkh,bkhd->bqhd", weights, v)


@spelled(FLAT, FLAT, FLAT)
def bmm_of_flat_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)) * E**-0.5, -1), v)


@spelled(FLAT, FLAT, FLAT)
def baddbmm_with_scale(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    empty = torch.zeros(B * H, L, S, dtype=q.dtype)
    return torch.bmm(torch.baddbmm(empty, q, k.transpose(-1, -2), beta=0, alpha=E**-0.5).softmax(-1), v)


@spelled(FLAT, FLAT, FLAT, (B * H, 1, S))
def baddbmm_with_alibi(q: Tensor, k: Tensor, v: Tensor, alibi: Tensor) -> Tensor:
    scores = torch.baddbmm(alibi, q, k.transpose(1, 2), beta=1.0, alpha=E**-0.5).view(B, H, L, S)
    return torch.bmm(scores.softmax(-1).view(B * H, L, S), v)


@spelled(TOKENS, TOKENS, TOKENS, (B, 1, L, S))
def flat_heads_with_mask_per_batch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    q, k, v = (x.view(B, -1, H, E).transpose(1, 2).reshape(B * H, -1, E) for x in (q * E**-0.5, k, v))
    scores = torch.bmm(q, k.transpose(1, 2)).view(B, H, L, S) + mask
    weights = F.softmax(scores.view(B * H, L, S), dim=-1)
    return torch.bmm(weights, v).view(B, H, L, E).transpose(1, 2).reshape(B, L, H * E)


@spelled()
def transposed_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (k @ q.transpose(-2, -1) * E**-0.5).softmax(-2)
    return (v.transpose(-2, -1) @ weights).transpose(-2, -1)


@spelled((B, L, 3 * H * E))
def packed_and_unbound(x: Tensor) -> Tensor:
    q, k, v = x.reshape(B, L, 3, H, E).permute(2, 0, 3, 1, 4).unbind(0)
    return ((q * E**-0.5) @ k.transpose(-2, -1)).softmax(-1).matmul(v).transpose(1, 2).reshape(B, L, H * E)


@spelled((B, L, 3 * H * E))
def packed_and_split(x: Tensor) -> Tensor:
    q, k, v = (part.view(B, L, H, E).transpose(1, 2) for part in x.split(H * E, dim=2))
    scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
    scores = scores.masked_fill(torch.tril(torch.ones(L, L)).view(1, 1, L, L) == 0, float("-inf"))
    return (F.softmax(scores, dim=-1) @ v).transpose(1, 2).contiguous().view(B, L, H * E)


@spelled((B, L, H, 3 * E))
def packed_per_head(x: Tensor) -> Tensor:
    q, k, v = x.transpose(1, 2).chunk(3, dim=-1)
    return (q @ k.transpose(-1, -2) / E**0.5).softmax(-1) @ v


@spelled(HEADS, HEADS, HEADS, (B, 1, 1, S))
def additive_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.softmax(q @ k.transpose(-1, -2) / math.sqrt(E) + mask, dim=-1) @ v


@spelled(others=(KEPT,))
def additive_mask_from_tokens(q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> Tensor:
    mask = (1.0 - kept[:, None, None, :].to(q.dtype)) * -10000.0
    return F.dropout(F.softmax(q @ k.transpose(-1, -2) / math.sqrt(E) + mask, dim=-1), 0.1, False) @ v


@spelled(others=(PADDED,))
def masked_fill_of_padding(q: Tensor, k: Tensor, v: Tensor, padded: Tensor) -> Tensor:
    scores = (q @ k.transpose(-1, -2) * E**-0.5).masked_fill(padded[:, None, None, :], float("-inf"))
    return F.softmax(scores, dim=-1) @ v


@spelled(others=(KEPT,), refusal_half="uniform")
def masked_fill_with_a_billion(q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> Tensor:
    low = -1e9 if q.dtype == torch.float32 else torch.finfo(q.dtype).min
    scores = (q @ k.transpose(-1, -2) / math.sqrt(E)).masked_fill(kept[:, None, None] == 0, low)
    return F.softmax(scores, dim=-1) @ v


@spelled(others=(PADDED,), refusal_half="uniform")
def where_with_lowest_number(q: Tensor, k: Tensor, v: Tensor, padded: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(E)
    lowest = torch.full([], torch.finfo(q.dtype).min, dtype=q.dtype)
    return F.softmax(torch.where(~padded[:, None, None, :], scores, lowest), dim=-1) @ v


@spelled()
def causal_where(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) / v.size(-1) ** 0.5
    scores = torch.where(tril(), scores, torch.tensor(torch.finfo(q.dtype).min, dtype=q.dtype))
    return F.softmax(scores, dim=-1) @ v


@spelled()
def causal_by_upper_triangle(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.triu(torch.full((L, S), float("-inf"), dtype=q.dtype), diagonal=1)
    return F.softmax(q @ k.transpose(-1, -2) * E**-0.5 + mask, dim=-1) @ v


@spelled()
def causal_by_positions(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    hidden = torch.arange(k.size(2))[None, :] > torch.arange(q.size(2))[:, None]
    return (q @ k.transpose(-2, -1) * E**-0.5).masked_fill(hidden, -math.inf).softmax(-1) @ v


@spelled(others=(KEPT,))
def causal_and_padding(q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> Tensor:
    allowed = tril()[None, None] & kept[:, None, None, :].bool()
    bias = torch.zeros(B, 1, L, S, dtype=q.dtype).masked_fill(~allowed, torch.finfo(q.dtype).min)
    return (torch.matmul(q, k.transpose(2, 3)) * E**-0.5 + bias).softmax(-1) @ v


@spelled()
def causal_by_product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = tril().to(q.dtype)
    return F.softmax(q @ k.transpose(-1, -2) / E**0.5 * mask - 1e4 * (1 - mask), dim=-1) @ v


@spelled()
def sliding_window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    near = tril() & ~torch.ones(L, S, dtype=torch.bool).tril(-3)
    return (q @ k.transpose(-2, -1) * E**-0.5).masked_fill(~near, -math.inf).softmax(-1) @ v


@spelled()
def alibi(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    slopes = torch.tensor([2.0**-i for i in range(1, H + 1)], dtype=q.dtype).view(1, H, 1, 1)
    distance = (torch.arange(S)[None, :] - torch.arange(L)[:, None]).to(q.dtype)
    return (q @ k.transpose(-2, -1) / math.sqrt(E) + slopes * distance).softmax(-1) @ v


@spelled(HEADS, HEADS, HEADS, (2 * L - 1, H))
def relative_position_bias(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    index = torch.arange(L)[:, None] - torch.arange(S)[None, :] + L - 1
    bias = table[index.view(-1)].view(L, S, H).permute(2, 0, 1)
    return (q * E**-0.5 @ k.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1) @ v


@spelled((B, 4, 4, E), (B, 4, 4, E), (B, 16, E), (4, 4, E), (4, 4, E))
def decomposed_position_bias(q: Tensor, k: Tensor, v: Tensor, high: Tensor, wide: Tensor) -> Tensor:
    scores = (q.reshape(B, 16, E) * E**-0.5) @ k.reshape(B, 16, E).transpose(-2, -1)
    rows = torch.einsum("bhwc,hkc->bhwk", q, high)
    columns = torch.einsum("bhwc,wkc->bhwk", q, wide)
    scores = scores.view(B, 4, 4, 4, 4) + rows[:, :, :, :, None] + columns[:, :, :, None, :]
    return scores.view(B, 16, 16).softmax(-1) @ v


@spelled(HEADS, HEADS, HEADS, (1, H, L, S))
def position_bias_without_scale(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    scores = torch.matmul(q, k.transpose(3, 2))
    scores += bias
    return torch.matmul(F.softmax(scores.float(), dim=-1).type_as(scores), v)


@spelled()
def softmax_in_float32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = F.softmax(q @ k.transpose(2, 3) * E**-0.5, dim=-1, dtype=torch.float32).to(q.dtype)
    return weights @ v


@spelled()
def scores_in_float32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q.float() @ k.float().transpose(-1, -2) / math.sqrt(E)
    return scores.softmax(-1).to(v.dtype) @ v


@spelled()
def softmax_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * E**-0.5
    powers = torch.exp(scores - scores.amax(-1, keepdim=True))
    return (powers / powers.sum(-1, keepdim=True)) @ v


@spelled()
def softmax_by_hand_reduced_in_single_precision(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * E**-0.5
    powers = torch.exp(scores - scores.float().amax(-1, keepdim=True).to(q.dtype))
    return (powers / powers.float().sum(-1, keepdim=True).to(q.dtype)) @ v


@spelled()
def softmax_after_the_maximum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * E**-0.5
    return (scores - scores.max(dim=-1, keepdim=True).values).softmax(-1) @ v


@spelled()
def exponential_of_log_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.log_softmax(q @ k.transpose(-2, -1) * E**-0.5, dim=-1).exp() @ v


@spelled(HEADS, (B, 2, S, E), (B, 2, S, E))
def shared_heads_expanded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x[:, :, None].expand(B, 2, 2, S, E).reshape(B, H, S, E) for x in (k, v))
    return (torch.matmul(q, k.transpose(2, 3)) * E**-0.5).softmax(-1) @ v


@spelled(HEADS, (B, 2, S, E), (B, 2, S, E))
def shared_heads_repeated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
    return (q @ k.transpose(-2, -1) * E**-0.5).softmax(-1) @ v


@spelled(HEADS, (B, 2, S, E), (B, 2, S, E))
def shared_heads_by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    grouped = q.view(B, 2, 2, L, E)
    weights = torch.einsum("bhgqd,bhkd->bhgqk", grouped, k).mul(E**-0.5).softmax(-1)
    return torch.einsum("bhgqk,bhkd->bhgqd", weights, v).reshape(B, H, L, E)


@spelled(HEADS, (B, 2, S, E), (B, 2, S, E))
def shared_heads_tiled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.repeat(1, 2, 1, 1) for x in (k, v))
    return (q @ k.transpose(-2, -1) * E**-0.5).softmax(-1) @ v


@spelled(HEADS, (B, S, E), (B, S, E))
def one_head_of_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k[:, None].transpose(-2, -1) * E**-0.5).softmax(-1) @ v.unsqueeze(1)


@spelled(HEADS, (B, S, E), (B, S, E))
def one_head_of_keys_by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhij,bjd->bhid", torch.einsum("bhid,bjd->bhij", q, k).softmax(-1), v)


@spelled(TOKENS, (B, 9, H * E))
def cross_attention(x: Tensor, memory: Tensor) -> Tensor:
    q, k, v = (y.reshape(B, -1, H, E).transpose(1, 2) for y in (x, memory, memory + 1))
    return (q @ k.transpose(-2, -1) * E**-0.5).softmax(-1) @ v


@spelled((B * 4, H, 4, E), (B * 4, H, 4, E), (B * 4, H, 4, E), (H, 4, 4))
def shifted_windows(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    scores = (q * E**-0.5) @ k.transpose(-2, -1) + bias.unsqueeze(0)
    regions = torch.arange(16).view(4, 4) // 3
    mask = (regions[:, None] - regions[:, :, None]).ne(0).to(q.dtype) * -100.0
    scores = scores.view(B, 4, H, 4, 4) + mask.unsqueeze(1).unsqueeze(0)
    return scores.view(-1, H, 4, 4).softmax(-1) @ v


@spelled((B, 3, 5, H * E))
def axial(x: Tensor) -> Tensor:
    q = k = v = x.view(B, 3, 5, H, E).permute(0, 1, 3, 2, 4)
    return ((q @ k.transpose(-2, -1)) * E**-0.5).softmax(-1) @ v


@spelled((B, H, E, 16), (B, H, E, 16), (B, H, E, 16), (H, 1, 1))
def cross_covariance(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    return ((q @ k.transpose(-2, -1)) * temperature).softmax(-1) @ v


@spelled(HEADS, HEADS, HEADS, (H, 1, 1), (1, H, L, S))
def cosine_with_learned_scale(q: Tensor, k: Tensor, v: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
    return (scores * scale.clamp(max=math.log(100.0)).exp() + bias).softmax(-1) @ v


@spelled((B, 8, 16), (B, 8, 16), (B, 8, 16))
def channels_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.bmm(q.transpose(1, 2), k).mul(8**-0.5).softmax(dim=2)
    return torch.bmm(v, weights.permute(0, 2, 1))


@spelled((B, 8, 16), (B, 8, 16), (B, 8, 16))
def channels_first_by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.view(B, 2, 4, 16) for x in (q, k, v))
    weights = torch.einsum("bhcl,bhcs->bhls", q * 4**-0.25, k * 4**-0.25).softmax(-1)
    return torch.einsum("bhls,bhcs->bhcl", weights, v).reshape(B, 8, 16)


@spelled((1, 3, H * E), TOKENS, TOKENS)
def learned_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.view(x.shape[0], -1, H, E).transpose(1, 2) for x in (q, k, v))
    return (q @ k.transpose(-2, -1) * E**-0.5).softmax(-1) @ v


@spelled((B, H, 1, E), HEADS, HEADS)
def single_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * E**-0.5).softmax(-1) @ v


@spelled(others=(PADDED,))
def rows_of_zeros(q: Tensor, k: Tensor, v: Tensor, padded: Tensor) -> Tensor:
    hidden = padded[:, None, None, :]
    scores = (q @ k.transpose(-2, -1) / math.sqrt(E)).masked_fill(hidden, torch.finfo(q.dtype).min)
    return scores.softmax(-1).masked_fill(hidden, 0.0) @ v


@spelled(others=(PADDED,))
def rows_without_nan(q: Tensor, k: Tensor, v: Tensor, padded: Tensor) -> Tensor:
    weights = (q @ k.transpose(-2, -1) / math.sqrt(E)).masked_fill(padded[:, None, None], -math.inf).softmax(-1)
    return torch.where(weights.isnan(), torch.zeros((), dtype=q.dtype), weights) @ v


@spelled(HEADS, HEADS, HEADS, (B, 1, L, S))
def clamped_to_lowest(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * E**-0.5 + mask
    return torch.max(scores, torch.tensor(torch.finfo(q.dtype).min, dtype=q.dtype)).softmax(-1) @ v


@spelled(refusal="capped by tanh")
def capped_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (torch.tanh(q @ k.transpose(-2, -1) * E**-0.5 / 50) * 50).softmax(-1) @ v


@spelled(HEADS, HEADS, HEADS, (H, H), refusal="the scores come from")
def talking_heads(q: Tensor, k: Tensor, v: Tensor, mix: Tensor) -> Tensor:
    scores = torch.einsum("bhij,hg->bgij", q @ k.transpose(-2, -1), mix).contiguous()
    return F.relu(scores).softmax(-1) @ v


@spelled((B, L, H * E), refusal="output of the model")
def classifier(x: Tensor) -> Tensor:
    return (x @ x.transpose(-2, -1)).softmax(-1)


@spelled(TOKENS, TOKENS, refusal="not from a product")
def pooling(x: Tensor, y: Tensor) -> Tensor:
    return x.sin().softmax(-1) @ y.transpose(-2, -1)
