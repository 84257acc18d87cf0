"""Residual blocks are found by their shape, left out, and given another's weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tersor.factor.residual import alike, blocks, bypass, change, influence, share
from tersor.refresh import refresh
from tests.passes.harness import Compute, captured, operators


class Layer(nn.Module):
    """Two branches of a transformer layer without attention."""

    def __init__(self, post: bool) -> None:
        super().__init__()
        self.post = post
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
        self.inner = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for norm, inner in zip(self.norms, self.inner, strict=True):
            x = norm(x + inner(x)) if self.post else x + inner(norm(x))
        return x


class Stack(nn.Module):
    def __init__(self, depth: int, post: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.start, self.first = nn.Linear(8, 8), nn.LayerNorm(8)
        self.position = nn.Parameter(torch.randn(5, 8))
        self.layers = nn.ModuleList(Layer(post) for _ in range(depth))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.start(x) + self.position)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("post", [False, True])
def test_bypassing_every_block_leaves_what_is_around_them(post: bool) -> None:
    model = Stack(2, post).eval()
    program = captured(model, X)
    assert len(list(blocks(program))) == 4
    while found := list(blocks(program)):
        bypass(program, found[-1].end.name, found[-1].stream.name)
    refresh(program)
    assert operators(program) == {"linear": 2, "add": 1, "layer_norm": 1}
    with torch.no_grad():
        wanted = model.head(model.first(model.start(X) + model.position))
    torch.testing.assert_close(program(X), wanted)


def test_a_block_of_a_convolutional_network_ends_behind_its_activation() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    model = Compute(
        lambda x, w: (lambda y: (torch.conv2d(y, w, padding=1) + y).relu())(x.relu()), w=conv.weight.detach()
    )
    program = captured(model, torch.randn(2, 4, 6, 6))
    (block,) = blocks(program)
    assert block.end.target is torch.ops.aten.relu.default
    assert block.work > 2 * 2 * 4 * 4 * 9 * 36
    bypass(program, block.end.name, block.stream.name)
    refresh(program)
    assert operators(program) == {"relu": 1, "clone": 1} or operators(program) == {"relu": 1}


def test_sums_of_unrelated_things_are_no_blocks() -> None:
    weights = {"a": torch.randn(8, 8), "b": torch.randn(8, 8)}
    linear = nn.functional.linear
    for function in (
        lambda x, a, b: linear(x, a) + linear(x, b),
        lambda x, a, b: x + x.relu(),
        lambda x, a, b: linear(x, a) + b[0],
        lambda x, a, b: torch.add(x, linear(x, a), alpha=2),
    ):
        assert list(blocks(captured(Compute(function, **weights), torch.randn(2, 8)))) == []


def test_a_block_takes_the_weights_of_one_like_it() -> None:
    model = Stack(2).eval()
    program = captured(model, X)
    found = list(blocks(program))
    assert alike(found[0], found[2]) and alike(found[0], found[1])
    before = program.parameter_bytes()
    share(program, found[2], found[0])
    refresh(program)
    for part in ("norms", "inner"):
        getattr(model.layers[1], part)[0].load_state_dict(getattr(model.layers[0], part)[0].state_dict())
    with torch.no_grad():
        torch.testing.assert_close(program(X), model(X))
    assert before - program.parameter_bytes() == 4 * (2 * 8 + 8 * 16 + 16 + 16 * 8 + 8)


def test_blocks_with_other_literals_or_shapes_are_not_alike() -> None:
    def function(x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        linear = nn.functional.linear
        x = x + linear(x, a).relu()
        x = x + linear(x, b).mul(2.0)
        x = x + linear(x, b.t()[:, :8]).mul(3.0)
        return x + linear(linear(x, c), c.t())

    weights = {"a": torch.randn(8, 8), "b": torch.randn(8, 8), "c": torch.randn(4, 8)}
    found = list(blocks(captured(Compute(function, **weights), torch.randn(2, 8))))
    assert not any(alike(left, right) for left in found for right in found if left is not right)


def test_change_and_influence() -> None:
    wanted, got = [(torch.tensor([[1.0], [3.0]]),)], [(torch.tensor([[1.0], [2.0]]),)]
    assert change(wanted, wanted) == 0.0
    assert change(wanted, got) == pytest.approx(0.5)
    assert change([(torch.tensor([1, 2]),)], [(torch.tensor([1, 3]),)]) == 0.5
    assert change(wanted, [(torch.tensor([[1.0], [float("nan")]]),)]) == float("inf")
    x = torch.randn(2, 3, 4)
    assert influence(x, 2 * x) == pytest.approx(0.0, abs=1e-9)
    assert influence(x, -x) == pytest.approx(2.0)
