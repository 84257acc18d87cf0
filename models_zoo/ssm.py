"""Selective state-space model, its scan in the quadratic dual form (Mamba-2, arXiv:2405.21060)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def selective_scan(x: Tensor, decay: Tensor, key: Tensor, query: Tensor) -> Tensor:
    """Runs ``h[t] = exp(decay[t]) h[t-1] + key[t] x[t]``, ``y[t] = query[t] . h[t]`` without a loop.

    ``x`` is (N, T, heads, P), ``decay`` (N, T, heads) and at most 0, ``key`` and ``query`` (N, T, S).
    The result has the shape of ``x``. All exponents are at most 0, so nothing overflows.
    """
    total = decay.cumsum(dim=1).transpose(1, 2)
    exponent = total[:, :, :, None] - total[:, :, None, :]
    causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
    passed = torch.exp(exponent.masked_fill(~causal, float("-inf")))
    agreement = query @ key.transpose(1, 2)
    return ((passed * agreement[:, None]) @ x.transpose(1, 2)).transpose(1, 2)


class GatedRmsNorm(nn.Module):
    """RMS norm of ``x * silu(gate)``, both spelled out."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(width))
        self.eps = eps

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """Two tensors (..., width) to one."""
        x = x * (gate * torch.sigmoid(gate))
        variance = (x * x).mean(dim=-1, keepdim=True)
        return x / torch.sqrt(variance + self.eps) * self.weight


class Mixer(nn.Module):
    """Packed projection, causal depthwise convolution, selective scan, gated norm, projection."""

    def __init__(self, width: int, heads: int, state: int) -> None:
        super().__init__()
        self.inner, self.heads, self.state = 2 * width, heads, state
        self.channels = self.inner + 2 * state
        self.enter = nn.Linear(width, self.inner + self.channels + heads, bias=False)
        self.conv = nn.Conv1d(self.channels, self.channels, 4, padding=3, groups=self.channels)
        self.log_rate = nn.Parameter(torch.log(torch.arange(1, heads + 1).float()))
        self.step_bias = nn.Parameter(torch.linspace(-3.0, 0.0, heads))
        self.direct = nn.Parameter(torch.ones(heads))
        self.norm = GatedRmsNorm(self.inner)
        self.leave = nn.Linear(self.inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same shape."""
        batch, length, _ = x.shape
        gate, mixed, step = torch.split(self.enter(x), [self.inner, self.channels, self.heads], dim=-1)
        mixed = F.silu(self.conv(mixed.transpose(1, 2))[:, :, :length]).transpose(1, 2)
        value, key, query = mixed.split([self.inner, self.state, self.state], dim=-1)
        value = value.reshape(batch, length, self.heads, -1)
        step = F.softplus(step + self.step_bias)
        scanned = selective_scan(value * step[..., None], -torch.exp(self.log_rate) * step, key, query)
        scanned = scanned + value * self.direct[:, None]
        return self.leave(self.norm(scanned.reshape(batch, length, self.inner), gate))


class Ssm(nn.Module):
    """Token embedding, three pre-norm mixers, layer norm, logits."""

    def __init__(self, vocabulary: int = 256, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.mixers = nn.ModuleList(Mixer(width, 4, 16) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T) int64 to next-token logits (N, T, vocabulary)."""
        x = self.tokens(tokens)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(norm(x))
        return self.head(self.norm(x))


def build() -> nn.Module:
    """The model with freshly drawn weights, in training mode."""
    return Ssm()


def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two rows of 24 random tokens."""
    return (torch.randint(0, 256, (2, 24), generator=generator),)


def dynamic() -> tuple[Any, ...]:
    """Any batch size and any length."""
    return ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=2048)},)
