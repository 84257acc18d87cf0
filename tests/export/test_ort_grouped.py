"""Attention of turned and shared heads as ONNX Runtime's operator: the same numbers, and only where it is that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.capture import load
from tersor.export import ort_grouped, to_onnx_model
from tersor.export.ort_attention import with_whole_attention
from tersor.export.runtime import Session
from tersor.models_zoo.catalog import load as entry_of
from tersor.passes import EXACT
from tersor.pipeline import Reference, run
from tersor.spec import parse

HEADS, SHARED, WIDTH, LENGTH = 4, 2, 16, 6
Turn = Callable[[Tensor], Tensor]
DYNAMIC = ({0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("tokens", max=64)},)


def angles(tokens: int, repeated: bool) -> tuple[Tensor, Tensor]:
    turns = torch.arange(tokens)[:, None] * 100.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
    whole = torch.cat([turns, turns], -1) if repeated else turns
    return whole.cos(), whole.sin()


def halves(x: Tensor) -> Tensor:
    cos, sin = angles(x.shape[2], True)
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def neighbours(x: Tensor) -> Tensor:
    cos, sin = angles(x.shape[2], False)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)


def backwards(x: Tensor) -> Tensor:
    cos, sin = angles(x.shape[2], True)
    first, second = x.chunk(2, -1)
    return x * cos - torch.cat([-second, first], -1) * sin


def plain(x: Tensor) -> Tensor:
    return x


class Grouped(nn.Module):
    """Grouped-query attention in which queries and keys are turned."""

    def __init__(self, turn: Turn, keys: Turn | None, mask: str, shared: int = SHARED) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.turn, self.keys, self.mask = turn, keys or turn, mask
        self.query, self.out = nn.Linear(24, HEADS * WIDTH), nn.Linear(HEADS * WIDTH, 24)
        self.key, self.value = nn.Linear(24, shared * WIDTH), nn.Linear(24, shared * WIDTH)

    def forward(self, x: Tensor) -> Any:
        q, k, v = (layer(x).unflatten(-1, (-1, WIDTH)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        q, k = self.turn(q), self.keys(k)
        k, v = repeated(k), repeated(v)
        seen = (x[:, :, 0] > 0)[:, None, None].expand(-1, 1, x.shape[1], -1) if self.mask == "padding" else None
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=self.mask == "causal", scale=0.2)
        return self.out(mixed.transpose(1, 2).flatten(2))


def repeated(x: Tensor) -> Tensor:
    batch, heads, tokens, width = x.shape
    return x[:, :, None].expand(-1, -1, HEADS // heads, -1, -1).reshape(batch, HEADS, tokens, width)


def grouped(model: nn.Module, dynamic: bool) -> int:
    """How many operators of ONNX Runtime's there are, in a model whose results are those of the module."""
    x = torch.randn(2, LENGTH, 24)
    program = load(model.eval(), (x,), DYNAMIC if dynamic else None)
    program = run(program, parse(EXACT), Reference.of(program)).program
    made = with_whole_attention(to_onnx_model(program))
    for value in (x, torch.randn(3, 9, 24), torch.randn(1, 1, 24)) if dynamic else (x,):
        torch.testing.assert_close(Session(made, 1).run((value,))[0], model(value), rtol=1e-4, atol=1e-5)
    return sum(node.op_type == "GroupQueryAttention" for node in made.graph)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("mask", ["", "causal", "padding"])
@pytest.mark.parametrize(("turn", "shared"), [(halves, 2), (halves, 1), (neighbours, 4), (plain, 2)])
def test_one_operator(turn: Turn, shared: int, mask: str, dynamic: bool) -> None:
    assert grouped(Grouped(turn, None, mask, shared), dynamic) == 1


@pytest.mark.parametrize(("turn", "keys"), [(halves, plain), (backwards, halves), (halves, neighbours)])
def test_turned_otherwise_stays(turn: Turn, keys: Turn) -> None:
    assert grouped(Grouped(turn, keys, "causal"), True) == 0


class Wide(nn.Module):
    """Values of other heads than keys, or queries that are repeated as well."""

    def __init__(self, wide: int, alike: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.alike, self.heads = alike, SHARED if alike else HEADS
        self.query, self.key = nn.Linear(24, self.heads * WIDTH), nn.Linear(24, SHARED * WIDTH)
        self.value = nn.Linear(24, SHARED * wide)

    def forward(self, x: Tensor) -> Any:
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (layer(x).unflatten(-1, (SHARED, -1)).transpose(1, 2) for layer in (self.key, self.value))
        q = repeated(q) if self.alike else q
        return F.scaled_dot_product_attention(q, repeated(k), repeated(v)).transpose(1, 2).flatten(2)


@pytest.mark.parametrize(("turn", "width", "count"), [(plain, 8, 1), (plain, 4, 0), (halves, 8, 0)])
def test_widths_that_the_operator_takes(turn: Turn, width: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "WIDTH", width)
    assert grouped(Grouped(turn, None, "causal"), False) == count


@pytest.mark.parametrize(("wide", "alike"), [(WIDTH // 2, False), (WIDTH, True)])
def test_heads_that_do_not_match_stay(wide: int, alike: bool) -> None:
    assert grouped(Wide(wide, alike), True) == 0


def test_what_an_older_runtime_lacks_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_grouped, "SINCE", (99, 0))
    assert grouped(Grouped(halves, None, ""), False) == 0


@pytest.mark.parametrize(("name", "layers"), [("zoo:tiny-lm", 4), ("hf:llama", 2)])
def test_all_layers_of_models(name: str, layers: int) -> None:
    entry = entry_of(name)
    program = load(entry.model, entry.inputs, entry.dynamic)
    reference = Reference.of(program)
    made = with_whole_attention(to_onnx_model(run(program, parse(EXACT), reference).program))
    assert sum(node.op_type == "GroupQueryAttention" for node in made.graph) == layers
    session = Session(made, 1)
    assert all(parity.passed for parity in reference.judge("grouped", lambda *inputs: session.run(inputs)))
