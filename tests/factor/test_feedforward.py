"""Feed-forward blocks are found by what they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.factor.feedforward import FeedForward, feedforwards
from tests.passes.harness import Compute, captured


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHTS = {"a": normal(16, 6), "b": normal(16, 6, seed=1), "c": normal(6, 16, seed=2), "s": normal(16, seed=3)}


def found(function: Callable[..., Any], **more: Tensor) -> list[FeedForward]:
    names = {**WEIGHTS, **more}
    program = captured(Compute(lambda x, *w: function(x, **dict(zip(names, w, strict=True))), **names), normal(2, 5, 6))
    return list(feedforwards(program))


def test_plain() -> None:
    (block,) = found(lambda x, a, b, c, s: F.linear(F.gelu(F.linear(x, a, s)), c))
    assert block.units == 16 and len(block.leaves) == 1 and len(block.inner) == 1
    assert torch.equal(block.leaves[0].weight, WEIGHTS["a"]) and block.bias is None


def test_gated() -> None:
    (block,) = found(lambda x, a, b, c, s: F.linear(F.silu(F.linear(x, a)) * F.linear(x, b), c))
    assert len(block.leaves) == 2 and {len(leaf.weight) for leaf in block.leaves} == {16}


def test_gated_by_a_split() -> None:
    def function(x: Tensor, a: Tensor, b: Tensor, c: Tensor, s: Tensor) -> Tensor:
        gate, up = F.linear(x, torch.cat([a, b])).split(16, dim=-1)
        return F.linear(F.silu(gate) * up, c)

    weights = {"both": torch.cat([WEIGHTS["a"], WEIGHTS["b"]]), "c": WEIGHTS["c"]}

    def merged(x: Tensor, both: Tensor, c: Tensor) -> Tensor:
        gate, up = F.linear(x, both).split([16, 16], dim=-1)
        return F.linear(F.silu(gate) * up, c)

    (block,) = feedforwards(captured(Compute(merged, **weights), normal(2, 5, 6)))
    parts = {id(leaf): leaf.weight for leaf in block.leaves}
    assert sorted(float(value.sum()) for value in parts.values()) == pytest.approx(
        sorted(float(WEIGHTS[name].sum()) for name in "ab")
    )


@pytest.mark.parametrize(
    "function",
    [
        lambda x, a, b, c, s: (lambda h: F.linear(h, c) + h.sum())(F.gelu(F.linear(x, a))),
        lambda x, a, b, c, s: F.linear(F.linear(x, a), c),
        lambda x, a, b, c, s: F.linear(F.gelu(F.linear(x, a)) * F.linear(x.relu(), b), c),
        lambda x, a, b, c, s: F.linear(F.gelu(F.linear(x, a) * s), c),
        lambda x, a, b, c, s: F.linear(F.linear(x, a).softmax(-1), c),
    ],
    ids=["read elsewhere", "no activation", "two sources", "a vector inside", "softmax"],
)
def test_what_is_no_block(function: Callable[..., Any]) -> None:
    assert found(function) == []
