"""Permuted programs compute what eager PyTorch does, in double precision to rounding, with the same graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.axes import analyze, groups
from tersor.axes.permute import permuted
from tersor.capture import load
from tersor.errors import RewriteError, UsageError
from tersor.program import Program


class Mixed(nn.Module):
    """A residual sum, a depthwise convolution, heads, a concatenation, a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.depth, self.inner = (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Conv2d(8, 8, 1),
        )
        self.qkv, self.norm, self.last = nn.Linear(8, 24), nn.LayerNorm(8), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.first(x))
        x = x + self.inner(self.depth(x))
        x = self.norm(x.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.last(torch.cat([x, mixed], -1))


X = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def program_of(model: nn.Module) -> Program:
    return load(model, (X,))


def test_every_free_axis_in_a_random_order() -> None:
    model = Mixed().double().eval()
    program = program_of(model)
    before = [(node.name, str(node.target)) for node in program.nodes]
    axes = analyze(program)
    free = [group for group in groups(program, axes) if group.free and group.size > 1 and not group.axis.ordered]
    assert len(free) >= 3
    generator = torch.Generator().manual_seed(2)
    order = {group.axis: torch.randperm(group.size, generator=generator) for group in free}
    old = dict(program.weights)
    parities = permuted(program, axes, order)
    assert parities and all(item.passed for item in parities)
    assert any(not torch.equal(old[name], program.weights[name]) for name in old)
    torch.testing.assert_close(program.run((X,))[0], model(X), rtol=1e-12, atol=1e-12)
    assert [name for name, _ in before] == [node.name for node in program.nodes]


def test_what_may_not_be_permuted_is_refused() -> None:
    program = program_of(Mixed().double().eval())
    axes = analyze(program)
    found = groups(program, axes)
    pinned = next(group for group in found if group.pin and group.size > 1)
    free = next(group for group in found if group.free and group.size > 1)
    with pytest.raises(RewriteError, match="may not be cut"):
        permuted(program, axes, {pinned.axis: torch.arange(pinned.size)})
    with pytest.raises(UsageError, match="no order"):
        permuted(program, axes, {free.axis: torch.zeros(free.size, dtype=torch.int64)})
